// What the one-pass backward leaves to do: dQ = scale * its fp32 sum, rounded.
//
// A warp takes 16 queries, whose fragments in memory are accumulators as any other. Reads dq_sum; writes dq of every
// query of the sequence.
#pragma once

#include "dq_sum.cuh"
#include "tile.cuh"

namespace fa2 {
template <class T, int D, int BLOCK_M, int WARPS, unsigned FEATURES>
DEVICE void postprocess(const Call& call) {
  static_assert(BLOCK_M == 16 * WARPS);
  Work work = find_work(call, block_index(), call.heads_q);
  int row = work.block * BLOCK_M, own_row = static_cast<int>(warp_index()) * 16;
  if (row + own_row >= work.q.length) return;
  GlobalPointer<float> fragments = dq_fragments<D>(call, work, work.head, row + own_row);
  float dq[1][D / 8][4];
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    if constexpr (VECTOR_ATOMICS) {
      Words words = load_words(fragments + (n * FRAGMENT + dq_place(0)));
#pragma unroll
      for (int e = 0; e < 4; ++e) dq[0][n][e] = as_float(words.word[e]) * call.scale;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) dq[0][n][e] = load(fragments + (n * FRAGMENT + dq_place(e))) * call.scale;
    }
  }
  store_rows<T, D, FEATURES>(call, dq, shared_memory(), own_row,
                             head_rows(call.dq, work.q, work.head) + row * call.dq.row_stride, call.dq.row_stride,
                             work.q.length - row, 0);
}
}  // namespace fa2
