// The fp32 sum of dQ in global memory, to which many blocks add.
//
// It is made of fragments, as accumulators are: 16 queries x 8 columns, 128 floats, a lane's four together where the
// machine adds four at once, and all lanes' first ones together, then the second ones, where it does not. A warp thus
// adds to, or reads, memory without a gap. Fragments lie by head, tile of 16 queries, and column. A sequence begins at
// a tile of its own: packed, the tiles before it hold the rows before it and 16 more a sequence, which is room enough
// for each one's last tile to be partly empty.
#pragma once

#include "geometry.cuh"

namespace fa2 {
constexpr int FRAGMENT = 128;  // floats

// The fragment of columns 0 to 8 of the 16 queries from `row`, a multiple of 16.
template <int D>
DEVICE GlobalPointer<float> dq_fragments(const Call& call, const Work& work, int head, int row) {
  i64 first = call.cu_seqlens_q ? (work.q.begin + 16 * static_cast<i64>(work.sequence)) / 16
                                : static_cast<i64>(work.sequence) * ((call.seqlen_q + 15) / 16);
  return global(call.dq_sum) + (head * call.dq_sum_tiles + first + row / 16) * (D / 8 * FRAGMENT);
}

// Element e of this lane in its fragment.
DEVICE int dq_place(int e) {
  int lane = static_cast<int>(lane_index());
  return VECTOR_ATOMICS ? 4 * lane + e : 32 * e + lane;
}

DEVICE void add_to_dq(GlobalPointer<float> fragment, const float (&x)[4]) {
  if constexpr (VECTOR_ATOMICS) {
    atomic_add_words(fragment + dq_place(0), x);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) atomic_add(fragment + dq_place(e), x[e]);
  }
}
}  // namespace fa2
