// From a raw score q . k to the exponent of its probability: scale, softcap, ALiBi, all in base 2.
//
//   p = exp2(score * exponent_factor - ...)
//
// Plain, the score stays raw and the factor is scale * log2(e): one fused multiply-add a score. With a softcap, ALiBi
// or a scale that is not positive, the score is taken through all steps first and the factor is 1.
#pragma once

#include "call.cuh"

namespace fa2 {
template <unsigned FEATURES>
DEVICE bool is_transformed(const Call& call) {
  return has<FEATURES>(call, SOFTCAP) || has<FEATURES>(call, ALIBI) || has<FEATURES>(call, PRESCALE);
}

template <unsigned FEATURES>
DEVICE float exponent_factor(const Call& call) {
  return is_transformed<FEATURES>(call) ? 1.0f : call.scale_log2;
}

template <unsigned FEATURES>
DEVICE float slope_log2(const Call& call, int sequence, int head) {
  if (!has<FEATURES>(call, ALIBI)) return 0.0f;
  return load(global(call.alibi_slopes) + (sequence * call.alibi_sequence_stride + head)) * LOG2E;
}

// tanh(x) = 1 - 2 / (1 + exp(2 |x|)) with the sign of x: its error is two roundings of 1 or so. Near 0 that is too much;
// there the series to x^9 is off by less than half a unit in the last place. Without a branch: one for every score would
// take longer to compile than all the rest of a kernel.
DEVICE float tanh(float x) {
  float size = absolute(x), square = x * x;
  float far = fma(-2.0f, reciprocal(1.0f + exp2(2.0f * LOG2E * size)), 1.0f);
  float series = fma(square, fma(square, fma(square, 62.0f / 2835, -17.0f / 315), 2.0f / 15), -1.0f / 3);
  return size < 0.25f ? fma(x * square, series, x) : x < 0.0f ? -far : far;
}

struct Score {
  float value;
  float derivative;  // of the softcapped score by the scaled one: 1 without a softcap
};

// `distance` is key - (query + diagonal).
template <unsigned FEATURES>
DEVICE Score score(const Call& call, float raw, int distance, float slope) {
  Score result{raw, 1.0f};
  if (has<FEATURES>(call, SOFTCAP)) {
    float t = tanh(raw * call.scale_over_cap);
    result = {t * call.cap_log2, fma(-t, t, 1.0f)};
  } else if (is_transformed<FEATURES>(call)) {
    result.value = raw * call.scale_log2;
  }
  if (has<FEATURES>(call, ALIBI)) result.value = fma(-slope, absolute(static_cast<float>(distance)), result.value);
  return result;
}
}  // namespace fa2
