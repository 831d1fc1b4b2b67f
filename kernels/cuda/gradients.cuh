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
// What a query brings to its scores.
struct RowStatistics {
  float lse_log2;  // +inf where the query does not exist: its probabilities are then 0
  float delta;
};

DEVICE RowStatistics row_statistics(const Call& call, i64 offset, int query, int length) {
  if (query >= length) return {INFINITE, 0.0f};
  // -inf, of a query that sees no key, stays: it lies in masked tiles alone, which set its probabilities to 0.
  return {load(global(call.lse) + (offset + query)) * LOG2E, load(global(call.delta) + (offset + query))};
}

struct Weights {
  float w, ds;
};

template <unsigned FEATURES>
DEVICE Weights weights(const Call& call, const Work& work, float raw, float dp, int query, int key, int head,
                       float slope, RowStatistics row, bool masked) {
  Score s = score<FEATURES>(call, raw, key - query - work.diagonal, slope);
  float p = exp2(fma(s.value, exponent_factor<FEATURES>(call), -row.lse_log2));
  if (masked) {
    Keys keys = visible_keys_of(call, work, query);
    if (key < keys.first || key > keys.last) p = 0.0f;
  }
  float w = p;
  if (has<FEATURES>(call, DROPOUT)) {
    bool keep = kept(call, dropout_words(work, head, query, key), key);
    w = keep ? p : 0.0f;
    dp = keep ? dp * call.keep_scale : 0.0f;
  }
  return {w, p * (dp - row.delta) * s.derivative};
}
}  // namespace fa2
