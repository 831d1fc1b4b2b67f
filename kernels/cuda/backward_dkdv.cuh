// dK and dV: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691) without dQ.
//
// A block owns BLOCK_N keys of one key head and walks over the queries that see them, of all query heads of its group,
// so that a group's sums need no copy a head and have one order: the same bits in every run. Scores are computed
// transposed, keys down and queries across: P^T and dS^T are then left operands that go from accumulators to the next
// product without shared memory. A warp owns 16 keys. Where two accumulators of 16 x D do not fit the registers, a
// block owns COLUMNS of the D columns and S is computed once more for each D / COLUMNS. Reads q, k, v, dout, lse,
// delta; writes dk and dv of every key of the sequence.
#pragma once

#include "gradients.cuh"
#include "products.cuh"

namespace fa2 {
template <class T, int D, int BLOCK_M, int BLOCK_N, int COLUMNS, int STAGES, unsigned FEATURES>
DEVICE void backward_dkdv(const Call& call) {
  constexpr int THREADS = 2 * BLOCK_N, PARTS = D / COLUMNS, QUERIES = BLOCK_M / 8;
  constexpr u32 Q_BYTES = TILE_BYTES<BLOCK_M, D>, STAGE_BYTES = 2 * Q_BYTES + BLOCK_M * 8;
  Work work = find_work(call, block_index() / PARTS, call.heads_kv);
  int column = work.block * BLOCK_N;
  if (column >= work.k.length) return;
  int first_column = static_cast<int>(block_index() % PARTS) * COLUMNS;  // of head_dim
  int group = call.heads_q / call.heads_kv;
  int own_key = static_cast<int>(warp_index()) * 16;
  Shared k_tile = shared_memory(), v_tile = k_tile + TILE_BYTES<BLOCK_N, D>, stages = v_tile + TILE_BYTES<BLOCK_N, D>;
  TileRange range = seeing_queries(call, work, column, BLOCK_N, BLOCK_M);
  int tiles_a_head = range.end - range.begin, steps = tiles_a_head * group;

  // Stage: Q tile, dO tile, (lse, delta) of each query.
  auto fetch_queries = [&](int step) {
    Shared stage = stages + step % STAGES * STAGE_BYTES;
    int head = work.head * group + step / tiles_a_head, row = (range.begin + step % tiles_a_head) * BLOCK_M;
    fetch_tiles<BLOCK_M, D, THREADS, FEATURES>(call, stage, call.q, call.dout, work.q, head, row);
    fetch_statistics<BLOCK_M, THREADS>(call, work, stage + 2 * Q_BYTES, head, row);
    commit_copies();
  };

  float dk[1][COLUMNS / 8][4], dv[1][COLUMNS / 8][4];
#pragma unroll
  for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dk[0][n][e] = dv[0][n][e] = 0.0f;

  if (steps > 0) {
    fetch_tiles<BLOCK_N, D, THREADS, FEATURES>(call, k_tile, call.k, call.v, work.k, work.head, column);
    fetch_queries(0);
  }
  for (int step = 0; step < steps; ++step) {
    int head = work.head * group + step / tiles_a_head, row = (range.begin + step % tiles_a_head) * BLOCK_M;
    u64 kept = has<FEATURES>(call, DROPOUT) ? kept_of_columns<1, QUERIES>(call, work, row, column + own_key, head) : 0;
    if (STAGES > 1 && step + 1 < steps) {
      fetch_queries(step + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    block_sync();  // this step's tiles are there for all
    Shared q_tile = stages + step % STAGES * STAGE_BYTES, dout_tile = q_tile + Q_BYTES, rows = dout_tile + Q_BYTES;
    float slope = slope_log2<FEATURES>(call, work.sequence, head);
    bool masked = needs_gradient_mask(call, work, row, BLOCK_M, column, BLOCK_N);

    // S^T = K Q^T and dP^T = V dO^T  (lines 10 and 13)
    float p[1][QUERIES][4], ds[1][QUERIES][4];
    rows_by_rows<T, D, FEATURES>(p, k_tile, own_key, q_tile);
    rows_by_rows<T, D, FEATURES>(ds, v_tile, own_key, dout_tile);

    // P^T and dS^T  (lines 11 and 14)
    transposed_weights<FEATURES>(call, work, p, ds, row, column + own_key, slope, rows, kept, masked);

    // dV += P^T dO and dK += dS^T Q  (lines 12 and 16)
    weights_by_rows<T, D>(dv, p, dout_tile, first_column / 8);
    weights_by_rows<T, D>(dk, ds, q_tile, first_column / 8);
    block_sync();  // nobody reads this stage any more
    if (STAGES == 1 && step + 1 < steps) fetch_queries(step + 1);
  }

  float dv_scale = has<FEATURES>(call, DROPOUT) ? call.keep_scale : 1.0f;
#pragma unroll
  for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      // S = scale * Q K^T, so dK = scale * dS^T Q: one factor at the end instead of one a score.
      dk[0][n][e] *= call.scale;
      dv[0][n][e] *= dv_scale;
    }
  store_rows<T, D, FEATURES>(call, dk, k_tile, own_key,
                             head_rows(call.dk, work.k, work.head) + column * call.dk.row_stride, call.dk.row_stride,
                             work.k.length - column, first_column);
  store_rows<T, D, FEATURES>(call, dv, v_tile, own_key,
                             head_rows(call.dv, work.k, work.head) + column * call.dv.row_stride, call.dv.row_stride,
                             work.k.length - column, first_column);
}
}  // namespace fa2
