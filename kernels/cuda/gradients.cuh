// The elementwise step of the backward (Algorithm 2, lines 11 to 14), for one score.
//
//   P = exp2(score - lse),  W = P * keep,  dP = (dO V^T) * keep / (1 - dropout),  dS = P * (dP - delta)
//
// W is left without its factor 1 / (1 - dropout), which dV gets at the end.
#pragma once

#include "dropout.cuh"
#include "mask.cuh"
#include "scores.cuh"

namespace fa2 {
// What a query brings to its scores. Both are 0 where the query does not exist, and lse -inf where it sees no key: both
// lie in masked tiles alone, which set their probabilities to 0.
struct RowStatistics {
  float lse_log2;
  float delta;
};

DEVICE RowStatistics row_statistics(const Call& call, i64 offset, int query, int length) {
  if (query >= length) return {0.0f, 0.0f};
  return {load(global(call.lse) + (offset + query)) * LOG2E, load(global(call.delta) + (offset + query))};
}

// Fetches (lse, delta) of BLOCK_M queries from `row` on to shared memory. Done as `fetch_tile` is.
template <int BLOCK_M, int THREADS>
DEVICE void fetch_statistics(const Call& call, const Work& work, Shared to, int head, int row) {
  static_assert(BLOCK_M <= THREADS);
  int own = static_cast<int>(thread_index());
  if (own >= BLOCK_M) return;
  i64 at = lse_offset(call, work.q, head) + row + own;
  copy_async_word(to + own * 8, global(call.lse) + at, row + own < work.q.length);
  copy_async_word(to + own * 8 + 4, global(call.delta) + at, row + own < work.q.length);
}

// Whether some score of the tile is masked, or of no query.
DEVICE bool needs_gradient_mask(const Call& call, const Work& work, int row, int rows, int column, int columns) {
  return row + rows > work.q.length || needs_mask(call, work, row, rows, column, columns);
}

struct Weights {
  float w, ds;
};

template <unsigned FEATURES>
DEVICE Weights weights(const Call& call, float raw, float dp, int distance, float slope, RowStatistics row, bool keep,
                       bool visible) {
  Score s = score<FEATURES>(call, raw, distance, slope);
  float p = exp2(fma(s.value, exponent_factor<FEATURES>(call), -row.lse_log2));
  float w = p;
  if (has<FEATURES>(call, DROPOUT)) {
    w = keep ? p : 0.0f;
    dp = keep ? dp * call.keep_scale : 0.0f;
  }
  float ds = p * (dp - row.delta) * s.derivative;
  // Selected: what is not visible may be infinite, and 0 times that NaN.
  return {visible ? w : 0.0f, visible ? ds : 0.0f};
}

// dS in place of dP, of fragments of queries from `row` down and keys from `column` across.
template <unsigned FEATURES, bool MASKED, int N>
DEVICE void score_gradients(const Call& call, const Work& work, const float (&s)[N][4], float (&ds)[N][4], int row,
                            int column, float slope, const RowStatistics (&statistics)[2], u64 kept) {
  int lane = static_cast<int>(lane_index());
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int query = row + lane / 4 + e / 2 * 8, key = column + 8 * n + lane % 4 * 2 + e % 2;
      ds[n][e] = weights<FEATURES>(call, s[n][e], ds[n][e], key - query - work.diagonal, slope, statistics[e / 2],
                                   is_kept(kept, 4 * n + e), !MASKED || is_visible(call, work, query, key))
                     .ds;
    }
}

template <unsigned FEATURES, int N>
DEVICE void score_gradients(const Call& call, const Work& work, const float (&s)[N][4], float (&ds)[N][4], int row,
                            int column, float slope, const RowStatistics (&statistics)[2], u64 kept, bool masked) {
  // Of longer code one copy, with a mask that costs little beside it.
  if (masked || has<FEATURES>(call, DROPOUT) || has<FEATURES>(call, SOFTCAP))
    score_gradients<FEATURES, true>(call, work, s, ds, row, column, slope, statistics, kept);
  else
    score_gradients<FEATURES, false>(call, work, s, ds, row, column, slope, statistics, kept);
}

// P^T and dS^T in place of S^T and dP^T: fragments of keys from `key` down and queries from `row` across, whose
// (lse, delta) begin at `statistics`.
template <unsigned FEATURES, bool MASKED, int M, int N>
DEVICE void transposed_weights(const Call& call, const Work& work, float (&p)[M][N][4], float (&ds)[M][N][4], int row,
                               int key, float slope, Shared statistics, u64 kept) {
  int lane = static_cast<int>(lane_index());
#pragma unroll
  for (int n = 0; n < N; ++n) {
    int query = 8 * n + lane % 4 * 2;
    Words pair = shared_load_words(statistics + query * 8);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      RowStatistics own = {as_float(pair.word[2 * side]) * LOG2E, as_float(pair.word[2 * side + 1])};
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int e = 2 * half + side, own_query = row + query + side, own_key = key + 16 * m + lane / 4 + 8 * half;
          Weights one = weights<FEATURES>(call, p[m][n][e], ds[m][n][e], own_key - own_query - work.diagonal, slope, own,
                                          is_kept(kept, 4 * (m * N + n) + e),
                                          !MASKED || is_visible(call, work, own_query, own_key));
          p[m][n][e] = one.w;
          ds[m][n][e] = one.ds;
        }
    }
  }
}

template <unsigned FEATURES, int M, int N>
DEVICE void transposed_weights(const Call& call, const Work& work, float (&p)[M][N][4], float (&ds)[M][N][4], int row,
                               int key, float slope, Shared statistics, u64 kept, bool masked) {
  if (masked || has<FEATURES>(call, DROPOUT) || has<FEATURES>(call, SOFTCAP))  // as above
    transposed_weights<FEATURES, true>(call, work, p, ds, row, key, slope, statistics, kept);
  else
    transposed_weights<FEATURES, false>(call, work, p, ds, row, key, slope, statistics, kept);
}
}  // namespace fa2
