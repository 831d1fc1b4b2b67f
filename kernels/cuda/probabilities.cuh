// The attention weights themselves, for tests of dropout: what no flash kernel keeps, recomputed from lse.
//
// P = exp2(score - lse), negated where dropout drops it. A block owns BLOCK_M queries of one head and walks over the
// keys that they see; a warp owns 16 queries. Scores, mask and dropout are those of the other kernels. Reads q, k, lse;
// writes, element by element, the visible part of weights, which was zeros.
#pragma once

#include "dropout.cuh"
#include "mask.cuh"
#include "products.cuh"
#include "scores.cuh"

namespace fa2 {
template <class T, int D, int BLOCK_M, int BLOCK_N, unsigned FEATURES>
DEVICE void probabilities(const Call& call) {
  constexpr int THREADS = 2 * BLOCK_M;
  Work work = find_work(call, block_index(), call.heads_q);
  int row = work.block * BLOCK_M;
  if (row >= work.q.length) return;
  int head_kv = work.head / (call.heads_q / call.heads_kv);
  int lane = static_cast<int>(lane_index()), own_row = static_cast<int>(warp_index()) * 16;
  Shared q_tile = shared_memory(), k_tile = q_tile + TILE_BYTES<BLOCK_M, D>;
  GlobalPointer<u16> k_rows = head_rows(call.k, work.k, head_kv);
  GlobalPointer<u16> plane =
      global(call.weights.data) + (work.sequence * call.weights.sequence_stride + work.head * call.weights.head_stride);
  GlobalPointer<float> lse = global(call.lse) + lse_offset(call, work.q, work.head);
  TileRange range = visible_keys(call, work, row, BLOCK_M, BLOCK_N);
  float slope = slope_log2<FEATURES>(call, work.sequence, work.head);
  float factor = exponent_factor<FEATURES>(call);

  if (range.begin < range.end)
    fetch_tile<BLOCK_M, D, THREADS, FEATURES>(call, q_tile,
                                              head_rows(call.q, work.q, work.head) + row * call.q.row_stride,
                                              call.q.row_stride, work.q.length - row);
  for (int index = range.begin; index < range.end; ++index) {
    int column = index * BLOCK_N;
    fetch_tile<BLOCK_N, D, THREADS, FEATURES>(call, k_tile, k_rows + column * call.k.row_stride, call.k.row_stride,
                                              work.k.length - column);
    commit_copies();
    wait_copies<0>();
    u64 kept = has<FEATURES>(call, DROPOUT) ? kept_of_rows<BLOCK_N / 8>(call, work, row + own_row, column) : 0;
    block_sync();  // K (and Q) are there for all

    float s[1][BLOCK_N / 8][4];
    rows_by_rows<T, D, FEATURES>(s, q_tile, own_row, k_tile);

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int query = row + own_row + lane / 4 + 8 * half;
      if (query >= work.q.length) continue;
      Keys keys = visible_keys_of(call, work, query);
      float lse_log2 = load(lse + query) * LOG2E;
#pragma unroll
      for (int n = 0; n < BLOCK_N / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          int key = column + 8 * n + lane % 4 * 2 + e % 2;
          if (key < keys.first || key > keys.last) continue;
          Score found = score<FEATURES>(call, s[0][n][e], key - query - work.diagonal, slope);
          float p = exp2(fma(found.value, factor, -lse_log2));
          if (has<FEATURES>(call, DROPOUT) && !is_kept(kept, 4 * n + e)) p = -p;
          store(plane + (query * call.weights.row_stride + key), static_cast<u16>(pack<T>(p, 0.0f)));
        }
    }
    block_sync();  // nobody reads this K any more
  }
}
}  // namespace fa2
