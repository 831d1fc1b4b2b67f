// The forward kernel: Algorithm 1 of FlashAttention-2 (arXiv 2307.08691).
//
// A block owns BLOCK_M queries of one head and walks over tiles of BLOCK_N keys, the last first; a warp owns 16 M whole
// rows, so that a row's maximum and sum never leave a quad. One K and one V tile in shared memory: V loads during
// S = Q K^T, the next K during softmax and O += P V. Reads q, k, v; writes out and lse of every query of the sequence.
#pragma once

#include "dropout.cuh"
#include "mask.cuh"
#include "products.cuh"
#include "scores.cuh"
#include "softmax.cuh"

namespace fa2 {
// Scores of one fragment row block to what the softmax takes: transformed, and -inf where not visible.
template <unsigned FEATURES, int N>
DEVICE void prepare_scores(const Call& call, const Work& work, float (&s)[N][4], int row, int column, float slope,
                           bool masked) {
  if (!masked && !is_transformed<FEATURES>(call)) return;
  int lane = static_cast<int>(lane_index());
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int query = row + lane / 4 + 8 * half;
    Keys keys = visible_keys_of(call, work, query);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        int key = column + 8 * n + lane % 4 * 2 + e % 2;
        s[n][e] = score<FEATURES>(call, s[n][e], key - query - work.diagonal, slope).value;
        if (masked && (key < keys.first || key > keys.last)) s[n][e] = -INFINITE;
      }
  }
}

// P to W: what is dropped becomes 0; the factor 1 / (1 - dropout) is left to the end.
template <int N>
DEVICE void drop(float (&p)[N][4], u64 kept) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!is_kept(kept, 4 * n + e)) p[n][e] = 0.0f;
}

template <class T, int D, int BLOCK_M, int BLOCK_N, int WARPS, unsigned FEATURES>
DEVICE void forward(const Call& call) {
  constexpr int M = BLOCK_M / (16 * WARPS), THREADS = 32 * WARPS;
  static_assert(BLOCK_M == 16 * M * WARPS);
  Work work = find_work(call, block_index(), call.heads_q);
  int row = work.block * BLOCK_M;
  if (row >= work.q.length) return;
  int head_kv = work.head / (call.heads_q / call.heads_kv);
  Shared q_tile = shared_memory(), k_tile = q_tile + TILE_BYTES<BLOCK_M, D>, v_tile = k_tile + TILE_BYTES<BLOCK_N, D>;
  GlobalPointer<u16> k_rows = head_rows(call.k, work.k, head_kv), v_rows = head_rows(call.v, work.k, head_kv);
  TileRange range = visible_keys(call, work, row, BLOCK_M, BLOCK_N);
  int own_row = static_cast<int>(warp_index()) * 16 * M;  // in the tile
  int lane = static_cast<int>(lane_index());

  float acc[M][D / 8][4];  // O before division
  SoftmaxState state[M];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state[m].maximum[half] = -INFINITE;
      state[m].sum[half] = 0.0f;
    }
  clear(acc);
  float slope = slope_log2<FEATURES>(call, work.sequence, work.head);
  float factor = exponent_factor<FEATURES>(call);

  auto fetch_keys = [&](Shared tile, GlobalPointer<u16> rows, const View& view, int index) {
    int column = index * BLOCK_N;
    fetch_tile<BLOCK_N, D, THREADS, FEATURES>(call, tile, rows + column * view.row_stride, view.row_stride,
                                              work.k.length - column);
    commit_copies();
  };
  if (range.begin < range.end) {
    fetch_tile<BLOCK_M, D, THREADS, FEATURES>(call, q_tile,
                                              head_rows(call.q, work.q, work.head) + row * call.q.row_stride,
                                              call.q.row_stride, work.q.length - row);
    fetch_keys(k_tile, k_rows, call.k, range.end - 1);
  }
  for (int index = range.end - 1; index >= range.begin; --index) {
    int column = index * BLOCK_N;
    u64 kept[M];
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (has<FEATURES>(call, DROPOUT))
        kept[m] = kept_of_rows<BLOCK_N / 8>(call, work, row + own_row + 16 * m, column);
    wait_copies<0>();
    block_sync();  // K (and Q) are there for all; nobody reads the last V any more
    fetch_keys(v_tile, v_rows, call.v, index);

    // S = Q K^T  (line 8)
    float s[M][BLOCK_N / 8][4];
    if constexpr (D == 256 && (FEATURES == 0 || FEATURES == ANY))
      rows_by_rows_in_turns<T, D, 4>(s, q_tile, own_row, k_tile);
    else
      rows_by_rows<T, D, FEATURES>(s, q_tile, own_row, k_tile);

    wait_copies<0>();
    block_sync();  // V is there for all; nobody reads K any more
    if (index > range.begin) fetch_keys(k_tile, k_rows, call.k, index - 1);

    // P, m, l, and O rescaled  (lines 9 and 10)
    bool masked = needs_mask(call, work, row, BLOCK_M, column, BLOCK_N);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      int first = row + own_row + 16 * m;
      prepare_scores<FEATURES>(call, work, s[m], first, column, slope, masked);
      online_softmax(state[m], s[m], acc[m], factor);
      if (has<FEATURES>(call, DROPOUT)) drop(s[m], kept[m]);
    }

    // O += P V  (line 10)
    weights_by_rows<T, D>(acc, s, v_tile, 0);
  }

  // O / l and the log-sum-exp  (lines 12 and 13)
  GlobalPointer<u16> out_rows = head_rows(call.out, work.q, work.head) + row * call.out.row_stride;
  GlobalPointer<float> lse_rows = global(call.lse) + (lse_offset(call, work.q, work.head) + row);
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = quad_sum(state[m].sum[half]);
      // A row that saw no key has l = 0 and O = 0, and stays 0.
      float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      if (has<FEATURES>(call, DROPOUT)) inverse *= call.keep_scale;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        acc[m][n][2 * half] *= inverse;
        acc[m][n][2 * half + 1] *= inverse;
      }
      int own = own_row + 16 * m + lane / 4 + 8 * half;
      if (lane % 4 == 0 && row + own < work.q.length)
        store(lse_rows + own, logsumexp(state[m].maximum[half], sum, factor));
    }
  }
  store_rows<T, D, FEATURES>(call, acc, q_tile, own_row, out_rows, call.out.row_stride, work.q.length - row, 0);
}
}  // namespace fa2
