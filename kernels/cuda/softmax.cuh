// The online softmax of Algorithm 1 (arXiv 2307.08691) over accumulator fragments.
//
// A fragment is 16 rows x 8 n columns of mma accumulators: a thread holds rows lane / 4 and lane / 4 + 8 ("half" 0 and
// 1), and of each 8 columns the pair from 2 (lane % 4). The four lanes of a quad share their rows.
#pragma once

#include "machine.cuh"

namespace fa2 {
DEVICE float quad_maximum(float x) {
  x = maximum(x, shuffle_xor(x, 1));
  return maximum(x, shuffle_xor(x, 2));
}
DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

struct SoftmaxState {
  float maximum[2];  // of the scores so far, before exponent_factor; -inf: none visible
  float sum[2];      // of this thread's share of exp2(score * factor - maximum * factor)
};

// One block of keys: turns scores into probabilities relative to the new maximum, and rescales what was summed before.
template <int N, int M>
DEVICE void online_softmax(SoftmaxState& state, float (&s)[N][4], float (&acc)[M][4], float factor) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = state.maximum[half];
#pragma unroll
    for (int n = 0; n < N; ++n) largest = maximum(largest, maximum(s[n][2 * half], s[n][2 * half + 1]));
    largest = quad_maximum(largest);
    // A row that has seen no key yet has the maximum -inf, and -inf - -inf is NaN.
    float base = largest == -INFINITE ? 0.0f : largest * factor;
    float rescale = exp2(fma(state.maximum[half], factor, -base));
    float sum = state.sum[half] * rescale;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[n][e] = exp2(fma(s[n][e], factor, -base));
        sum += s[n][e];
      }
#pragma unroll
    for (int m = 0; m < M; ++m) {
      acc[m][2 * half] *= rescale;
      acc[m][2 * half + 1] *= rescale;
    }
    state.maximum[half] = largest;
    state.sum[half] = sum;
  }
}

// Natural log of a row's sum of exponentials, from its whole sum; -inf where nothing is visible.
DEVICE float logsumexp(float largest, float sum, float factor) { return fma(largest, factor, log2(sum)) * LN2; }
}  // namespace fa2
