// The backward in one pass: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691), five products a tile.
//
// A block owns BLOCK_N keys of one key head and walks over the queries that see them, of all query heads of its group.
// dK and dV stay in registers; its share of dQ is added to a sum in global memory, in no fixed order: for bits that
// repeat there are backward_dkdv and backward_dq. Scores are computed transposed, keys down and queries across.
//
// Each product spreads over the warps in a way of its own: SCORE_WARPS of them along the keys of S^T and dP^T,
// SUM_WARPS along the keys of dK and dV, DQ_WARPS along the queries of dQ, the rest of the warps along the other side.
// The more nearly square a warp's part, the fewer its loads from shared memory. Where each warp has all queries of its
// keys, and all columns of dK and dV for them, P^T and dS^T go from accumulators to these products in registers.
//
// Reads q, k, v, dout, lse, delta; adds to dq_sum; writes dk and dv of every key of the sequence.
#pragma once

#include "dq_sum.cuh"
#include "gradients.cuh"
#include "products.cuh"

namespace fa2 {
// Rounds a warp's fragments to T and stores them to a tile of WIDTH columns, rows from `first`, columns from chunk
// `first_chunk`, a multiple of N.
template <class T, int WIDTH, int M, int N>
DEVICE void store_fragments(const float (&x)[M][N][4], Shared tile, int first, int first_chunk) {
  int lane = static_cast<int>(lane_index());
  Shared row = chunk_address<WIDTH>(tile, first + lane / 4, first_chunk) + lane % 4 * 4;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        shared_store(chunks_right<WIDTH>(row, n) + (16 * m + 8 * half) * WIDTH * 2,
                     pack<T>(x[m][n][2 * half], x[m][n][2 * half + 1]));
}

template <class T, int D, int BLOCK_M, int BLOCK_N, int WARPS, int SCORE_WARPS, int SUM_WARPS, int DQ_WARPS, int STAGES,
          unsigned FEATURES>
DEVICE void backward(const Call& call) {
  constexpr int THREADS = 32 * WARPS;
  // What a warp has of each product: M fragments of 16 rows, N of 8 columns.
  constexpr int SCORE_M = BLOCK_N / (16 * SCORE_WARPS), SCORE_N = BLOCK_M / (8 * (WARPS / SCORE_WARPS));
  constexpr int SUM_M = BLOCK_N / (16 * SUM_WARPS), SUM_N = D / (8 * (WARPS / SUM_WARPS));
  constexpr int DQ_M = BLOCK_M / (16 * DQ_WARPS), DQ_N = D / (8 * (WARPS / DQ_WARPS));
  static_assert(SCORE_M * 16 * SCORE_WARPS == BLOCK_N && SCORE_N * 8 * (WARPS / SCORE_WARPS) == BLOCK_M);
  static_assert(SUM_M * 16 * SUM_WARPS == BLOCK_N && SUM_N * 8 * (WARPS / SUM_WARPS) == D);
  static_assert(DQ_M * 16 * DQ_WARPS == BLOCK_M && DQ_N * 8 * (WARPS / DQ_WARPS) == D);
  constexpr bool FROM_REGISTERS = SCORE_WARPS == WARPS && SUM_WARPS == WARPS;
  // With room for two tiles of dS, a tile's dQ waits for the next tile's barrier, and that is the only one.
  constexpr bool DEFERRED = FROM_REGISTERS && STAGES > 1;
  constexpr u32 Q_BYTES = TILE_BYTES<BLOCK_M, D>, STAGE_BYTES = 2 * Q_BYTES + BLOCK_M * 8,
                DS_BYTES = TILE_BYTES<BLOCK_N, BLOCK_M>;

  Work work = find_work(call, block_index(), call.heads_kv);
  // Under a causal mask the first keys are seen by the most queries: they start first.
  work.block = call.blocks - 1 - work.block;
  int column = work.block * BLOCK_N;
  if (column >= work.k.length) return;
  int group = call.heads_q / call.heads_kv, warp = static_cast<int>(warp_index());
  Shared k_tile = shared_memory(), v_tile = k_tile + TILE_BYTES<BLOCK_N, D>, stages = v_tile + TILE_BYTES<BLOCK_N, D>;
  Shared ds_tiles = stages + STAGES * STAGE_BYTES, p_tile = ds_tiles + DS_BYTES;
  TileRange range = seeing_queries(call, work, column, BLOCK_N, BLOCK_M);

  struct Step {
    int head, tile;
  };
  auto after = [&](Step step) {
    return step.tile + 1 < range.end ? Step{step.head, step.tile + 1} : Step{step.head + 1, range.begin};
  };
  int steps = (range.end - range.begin) * group;

  // Stage: Q tile, dO tile, (lse, delta) of each query.
  auto fetch_queries = [&](Step step, int index) {
    Shared stage = stages + index % STAGES * STAGE_BYTES;
    int row = step.tile * BLOCK_M;
    fetch_tiles<BLOCK_M, D, THREADS, FEATURES>(call, stage, call.q, call.dout, work.q, step.head, row);
    fetch_statistics<BLOCK_M, THREADS>(call, work, stage + 2 * Q_BYTES, step.head, row);
    commit_copies();
  };

  // dQ += dS K  (line 15)
  auto add_dq = [&](Step step, Shared ds_tile) {
    int first = warp % DQ_WARPS * 16 * DQ_M, first_chunk = warp / DQ_WARPS * DQ_N;
    float dq[DQ_M][DQ_N][4];
    clear(dq);
    tile_by_rows<T, BLOCK_M, true, D, BLOCK_N / 8>(dq, ds_tile, first, k_tile, first_chunk);
#pragma unroll
    for (int m = 0; m < DQ_M; ++m) {
      int row = step.tile * BLOCK_M + first + 16 * m;
      if (row >= work.q.length) continue;
      GlobalPointer<float> fragment = dq_fragments<D>(call, work, step.head, row) + first_chunk * FRAGMENT;
#pragma unroll
      for (int n = 0; n < DQ_N; ++n) add_to_dq(fragment + n * FRAGMENT, dq[m][n]);
    }
  };

  int score_key = warp % SCORE_WARPS * 16 * SCORE_M, score_query = warp / SCORE_WARPS * 8 * SCORE_N;
  int sum_key = warp % SUM_WARPS * 16 * SUM_M, sum_chunk = warp / SUM_WARPS * SUM_N;
  float dk[SUM_M][SUM_N][4], dv[SUM_M][SUM_N][4];
  clear(dk);
  clear(dv);
  Step now{work.head * group, range.begin}, before = now;
  if (steps > 0) {
    fetch_tiles<BLOCK_N, D, THREADS, FEATURES>(call, k_tile, call.k, call.v, work.k, work.head, column);
    fetch_queries(now, 0);
  }
  for (int index = 0; index < steps; ++index) {
    bool more = index + 1 < steps;
    int row = now.tile * BLOCK_M;
    u64 kept = has<FEATURES>(call, DROPOUT) ? kept_of_columns<SCORE_M, SCORE_N>(call, work, row + score_query,
                                                                                column + score_key, now.head)
                                            : 0;
    wait_copies<0>();
    block_sync();  // this step's tiles are there for all; nobody reads those of the last step any more
    if (STAGES > 1 && more) fetch_queries(after(now), index + 1);
    Shared q_tile = stages + index % STAGES * STAGE_BYTES, dout_tile = q_tile + Q_BYTES;
    Shared statistics = dout_tile + Q_BYTES + score_query * 8;
    Shared ds_tile = ds_tiles + (DEFERRED ? index % 2 * DS_BYTES : 0);
    if (DEFERRED && index > 0) add_dq(before, ds_tiles + (index + 1) % 2 * DS_BYTES);

    // S^T = K Q^T and dP^T = V dO^T  (lines 10 and 13)
    float p[SCORE_M][SCORE_N][4], ds[SCORE_M][SCORE_N][4];
    rows_by_rows<T, D, FEATURES>(p, k_tile, score_key, q_tile + score_query * D * 2);
    rows_by_rows<T, D, FEATURES>(ds, v_tile, score_key, dout_tile + score_query * D * 2);

    // P^T and dS^T  (lines 11 and 14)
    transposed_weights<FEATURES>(call, work, p, ds, row + score_query, column + score_key,
                                 slope_log2<FEATURES>(call, work.sequence, now.head), statistics, kept,
                                 needs_gradient_mask(call, work, row, BLOCK_M, column, BLOCK_N));
    store_fragments<T, BLOCK_M>(ds, ds_tile, score_key, score_query / 8);

    // dV += P^T dO and dK += dS^T Q  (lines 12 and 16)
    if constexpr (FROM_REGISTERS) {
      weights_by_rows<T, D>(dv, p, dout_tile, 0);
      weights_by_rows<T, D>(dk, ds, q_tile, 0);
      if constexpr (!DEFERRED) block_sync();  // dS is whole; nobody reads this stage any more
    } else {
      store_fragments<T, BLOCK_M>(p, p_tile, score_key, score_query / 8);
      block_sync();  // P and dS are whole
      tile_by_rows<T, BLOCK_M, false, D, BLOCK_M / 8>(dv, p_tile, sum_key, dout_tile, sum_chunk);
      tile_by_rows<T, BLOCK_M, false, D, BLOCK_M / 8>(dk, ds_tile, sum_key, q_tile, sum_chunk);
      if constexpr (STAGES == 1) block_sync();  // nobody reads this stage any more
    }
    if (STAGES == 1 && more) fetch_queries(after(now), index + 1);
    if constexpr (!DEFERRED) add_dq(now, ds_tile);
    before = now;
    now = after(now);
  }
  if constexpr (DEFERRED) block_sync();  // the last dS is whole; nobody reads a tile but K any more
  if (DEFERRED && steps > 0) add_dq(before, ds_tiles + (steps + 1) % 2 * DS_BYTES);

  float dv_scale = has<FEATURES>(call, DROPOUT) ? call.keep_scale : 1.0f;
#pragma unroll
  for (int m = 0; m < SUM_M; ++m)
#pragma unroll
    for (int n = 0; n < SUM_N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // S = scale * Q K^T, so dK = scale * dS^T Q: one factor at the end instead of one a score.
        dk[m][n][e] *= call.scale;
        dv[m][n][e] *= dv_scale;
      }
  // Neither goes through the K tile, which a slower warp may still read for dQ.
  store_rows<T, D, FEATURES>(call, dv, v_tile, sum_key,
                             head_rows(call.dv, work.k, work.head) + column * call.dv.row_stride, call.dv.row_stride,
                             work.k.length - column, 8 * sum_chunk);
  warp_sync();  // the rows of dV are read
  store_rows<T, D, FEATURES>(call, dk, v_tile, sum_key,
                             head_rows(call.dk, work.k, work.head) + column * call.dk.row_stride, call.dk.row_stride,
                             work.k.length - column, 8 * sum_chunk);
}
}  // namespace fa2
