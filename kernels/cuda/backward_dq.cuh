// dQ: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691), the rows' side.
//
// A block owns BLOCK_M queries of one head and walks over the keys that they see; a warp owns 16 queries. The paper
// adds each key block's share of dQ with atomics, in no fixed order; here S and dP are computed once more instead, and
// every sum has one order: the same bits in every run, and no fp32 copy of dQ. Reads q, k, v, dout, lse, delta; writes
// dq of every query of the sequence.
#pragma once

#include "gradients.cuh"
#include "products.cuh"

namespace fa2 {
template <class T, int D, int BLOCK_M, int BLOCK_N, int STAGES, unsigned FEATURES>
DEVICE void backward_dq(const Call& call) {
  constexpr int THREADS = 2 * BLOCK_M, KEYS = BLOCK_N / 8;
  constexpr u32 K_BYTES = TILE_BYTES<BLOCK_N, D>;
  Work work = find_work(call, block_index(), call.heads_q);
  int row = work.block * BLOCK_M;
  if (row >= work.q.length) return;
  int head_kv = work.head / (call.heads_q / call.heads_kv);
  int lane = static_cast<int>(lane_index()), own_row = static_cast<int>(warp_index()) * 16;
  Shared q_tile = shared_memory(), dout_tile = q_tile + TILE_BYTES<BLOCK_M, D>,
         stages = dout_tile + TILE_BYTES<BLOCK_M, D>;
  TileRange range = visible_keys(call, work, row, BLOCK_M, BLOCK_N);

  // Stage: K tile, V tile.
  auto fetch_keys = [&](int index) {
    Shared stage = stages + (index - range.begin) % STAGES * (2 * K_BYTES);
    fetch_tiles<BLOCK_N, D, THREADS, FEATURES>(call, stage, call.k, call.v, work.k, head_kv, index * BLOCK_N);
    commit_copies();
  };

  float dq[1][D / 8][4];
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dq[0][n][e] = 0.0f;
  float slope = slope_log2<FEATURES>(call, work.sequence, work.head);
  RowStatistics statistics[2];
#pragma unroll
  for (int half = 0; half < 2; ++half)
    statistics[half] =
        row_statistics(call, lse_offset(call, work.q, work.head), row + own_row + lane / 4 + 8 * half, work.q.length);

  if (range.begin < range.end) {
    fetch_tiles<BLOCK_M, D, THREADS, FEATURES>(call, q_tile, call.q, call.dout, work.q, work.head, row);
    fetch_keys(range.begin);
  }
  for (int index = range.begin; index < range.end; ++index) {
    int column = index * BLOCK_N;
    u64 kept = has<FEATURES>(call, DROPOUT) ? kept_of_rows<KEYS>(call, work, row + own_row, column) : 0;
    if (STAGES > 1 && index + 1 < range.end) {
      fetch_keys(index + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    block_sync();  // this step's tiles are there for all
    Shared k_tile = stages + (index - range.begin) % STAGES * (2 * K_BYTES), v_tile = k_tile + K_BYTES;
    bool masked = needs_gradient_mask(call, work, row, BLOCK_M, column, BLOCK_N);

    // S = Q K^T and dP = dO V^T  (lines 10 and 13)
    float s[1][KEYS][4], ds[1][KEYS][4];
    rows_by_rows<T, D, FEATURES>(s, q_tile, own_row, k_tile);
    rows_by_rows<T, D, FEATURES>(ds, dout_tile, own_row, v_tile);

    // dS  (lines 11 and 14)
    score_gradients<FEATURES>(call, work, s[0], ds[0], row + own_row, column, slope, statistics, kept, masked);

    // dQ += dS K  (line 15)
    weights_by_rows<T, D>(dq, ds, k_tile, 0);
    block_sync();  // nobody reads this stage any more
    if (STAGES == 1 && index + 1 < range.end) fetch_keys(index + 1);
  }

#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dq[0][n][e] *= call.scale;
  store_rows<T, D, FEATURES>(call, dq, q_tile, own_row,
                             head_rows(call.dq, work.q, work.head) + row * call.dq.row_stride, call.dq.row_stride,
                             work.q.length - row, 0);
}
}  // namespace fa2
