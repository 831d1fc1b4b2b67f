// What the backward needs a row before it starts: delta = rowsum(dO * O) (Algorithm 2, line 4), less the gradient of
// lse; and a dQ of zeros, where blocks are to add to one.
//
// A gradient that arrives through lse adds P * dlse to dS, so it is subtracted here: dS = P * (dP - delta). A few lanes
// share a row, 16 bytes each. Reads out, dout, dlse; writes delta of every query of the sequence, and dq_sum.
#pragma once

#include "dq_sum.cuh"

namespace fa2 {
// Eight elements from column d of a row, of which those beyond head_dim are 0.
template <class T, unsigned FEATURES>
DEVICE void load_row(const Call& call, float (&x)[8], GlobalPointer<u16> row, int d) {
  if (!has<FEATURES>(call, NARROW)) {
    Words words{};
    if (d < call.head_dim) words = load_words(row + d);
#pragma unroll
    for (int e = 0; e < 8; ++e) x[e] = unpack<T>(static_cast<u16>(words.word[e / 2] >> 16 * (e % 2)));
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) x[e] = d + e < call.head_dim ? unpack<T>(load(row + (d + e))) : 0.0f;
  }
}

template <class T, int D, int BLOCK_M, int WARPS, unsigned FEATURES>
DEVICE void preprocess(const Call& call) {
  // A power of two, for the shuffles; lanes past D read nothing.
  constexpr int LANES_A_ROW = D <= 32 ? 4 : D <= 64 ? 8 : D <= 128 ? 16 : 32, ROWS_A_STEP = 32 * WARPS / LANES_A_ROW;
  static_assert(BLOCK_M % ROWS_A_STEP == 0);
  Work work = find_work(call, block_index(), call.heads_q);
  int row = work.block * BLOCK_M;
  if (row >= work.q.length) return;
  GlobalPointer<u16> out_rows = head_rows(call.out, work.q, work.head);
  GlobalPointer<u16> dout_rows = head_rows(call.dout, work.q, work.head);
  i64 offset = lse_offset(call, work.q, work.head);
  int part = static_cast<int>(thread_index()) % LANES_A_ROW;
  if (call.dq_sum) {
    // The block's 16-row tiles lie one after the other; those of rows that do not exist are another sequence's.
    constexpr int WORDS_A_TILE = 16 * D / 4;
    int left = (work.q.length - row + 15) / 16, words = (left < BLOCK_M / 16 ? left : BLOCK_M / 16) * WORDS_A_TILE;
    GlobalPointer<float> sum = dq_fragments<D>(call, work, work.head, row);
    for (int at = static_cast<int>(thread_index()); at < words; at += 32 * WARPS) store_words(sum + at * 4, Words{});
  }
#pragma unroll
  for (int step = 0; step < BLOCK_M / ROWS_A_STEP; ++step) {
    int own = row + step * ROWS_A_STEP + static_cast<int>(thread_index()) / LANES_A_ROW;
    float sum = 0.0f;
    // No early exit: the shuffles below need every lane.
    if (own < work.q.length) {
      float o[8], g[8];
      load_row<T, FEATURES>(call, o, out_rows + own * call.out.row_stride, part * 8);
      load_row<T, FEATURES>(call, g, dout_rows + own * call.dout.row_stride, part * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum = fma(o[e], g[e], sum);
    }
#pragma unroll
    for (int mask = LANES_A_ROW / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (part == 0 && own < work.q.length) {
      if (call.dlse) sum -= load(global(call.dlse) + (offset + own));
      store(global(call.delta) + (offset + own), sum);
    }
  }
}
}  // namespace fa2
