// One attention call as a kernel sees it: the argument of every launch. `call.py` fills the same structure.
#pragma once

#include "machine.cuh"

namespace fa2 {
// A (sequence, row, head, head_dim) tensor of 16-bit elements; strides in elements, that of head_dim is 1. Varlen: the
// sequence stride is the row stride, and a sequence begins at its first row instead of its index.
struct View {
  u16* data;
  i64 sequence_stride;
  i64 row_stride;
  i64 head_stride;
};

struct Call {
  View q, k, v, out, dout, dq, dk, dv;
  View weights;       // (sequence, query, head, key), in varlen too: a sequence begins at its index
  float* lse;         // (sequence, head, row), natural log; `delta` and `dlse` lie alike
  float* delta;       // rowsum(dO * O) - dlse
  const float* dlse;  // gradient of lse, or nullptr
  float* dq_sum;      // dQ / scale in fp32, as dq_sum.cuh lays it out; nullptr: the backward takes two passes
  i64 dq_sum_tiles;   // of 16 rows a head
  i64 lse_sequence_stride;
  i64 lse_head_stride;
  const int* cu_seqlens_q;  // nullptr: dense
  const int* cu_seqlens_k;
  const float* alibi_slopes;
  i64 alibi_sequence_stride;  // 0: slopes per head
  const i64* dropout_seed;    // (1); nullptr: no dropout
  int blocks;                 // of queries or keys, in the longest sequence
  int seqlen_q, seqlen_k;     // dense
  int heads_q, heads_kv, head_dim;
  int top_left;     // diagonal 0, else seqlen_k - seqlen_q
  int left, right;  // of the window; no more than seqlen_q + seqlen_k, which is unbounded
  unsigned features;
  float scale;
  float scale_log2;      // scale * log2(e)
  float scale_over_cap;  // scale / softcap
  float cap_log2;        // softcap * log2(e)
  float keep_scale;      // 1 / (1 - dropout)
  u32 drop_below;        // a weight is dropped if its random word is below
};

// What a variant is compiled for. ANY leaves every other choice to `Call::features`, which is how the emulator builds:
// one variant serves all.
constexpr unsigned SOFTCAP = 1;
constexpr unsigned ALIBI = 2;
constexpr unsigned DROPOUT = 4;
constexpr unsigned NARROW = 8;     // some tensor's rows are not made of aligned 16-byte chunks
constexpr unsigned PRESCALE = 16;  // scale <= 0: the largest raw score is not the largest score
constexpr unsigned ANY = 32;

template <unsigned FEATURES>
DEVICE bool has(const Call& call, unsigned feature) {
  if constexpr (FEATURES & ANY) return call.features & feature;
  return FEATURES & feature;
}
}  // namespace fa2
