// The two products of attention, by one warp, on tiles in shared memory and fragments in registers.
//
// M is how many fragments of 16 rows a warp holds: each right operand that it loads serves all of them.
#pragma once

#include "tile.cuh"

namespace fa2 {
template <int M, int N>
DEVICE void clear(float (&x)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[m][n][e] = 0.0f;
}

// How many of the D / 16 steps of a product over head_dim are one piece of code: all of them, which is fastest. With
// features the code is long without that, and shorter code is not slower, and sooner compiled.
template <int D, unsigned FEATURES>
constexpr int STEPS = FEATURES != 0 ? 2 : D / 16;

// acc = A B^T: rows [first, first + 16 M) of tile A against all 8 N rows of tile B, summed over head_dim.
template <class T, int D, unsigned FEATURES, int M, int N>
DEVICE void rows_by_rows(float (&acc)[M][N][4], Shared a_tile, int first, Shared b_tile) {
  static_assert(N % 2 == 0);
  constexpr u32 ROW = D * 2;  // bytes; 16 rows down, the swizzle is the same
  int lane = static_cast<int>(lane_index());
  clear(acc);
  Shared a_rows = chunk_address<D>(a_tile, first + lane % 16, lane / 16);
  Shared b_rows = chunk_address<D>(b_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
  constexpr int TOGETHER = STEPS<D, FEATURES>;
#pragma unroll TOGETHER
  for (int k = 0; k < D / 16; ++k) {
    u32 a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices(a[m], chunks_right<D>(a_rows, 2 * k) + 16 * m * ROW);
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      u32 b[4];  // right operands of two columns of fragments
      load_matrices(b, chunks_right<D>(b_rows, 2 * k) + 16 * n * ROW);
#pragma unroll
      for (int m = 0; m < M; ++m) multiply<T>(acc[m][2 * n], acc[m][2 * n + 1], a[m], b);
    }
  }
}

// The same in turns of TOGETHER steps, for a product whose code would take long to compile: what comes next is loaded
// before what came before is multiplied, across turns too, by which the shorter code loses only 0.2 %.
template <class T, int D, int TOGETHER, int M, int N>
DEVICE void rows_by_rows_in_turns(float (&acc)[M][N][4], Shared a_tile, int first, Shared b_tile) {
  constexpr int ALL = D / 16;
  static_assert(N % 2 == 0 && ALL % TOGETHER == 0);
  constexpr u32 ROW = D * 2;  // bytes; 16 rows down, the swizzle is the same
  int lane = static_cast<int>(lane_index());
  clear(acc);
  Shared a_rows = chunk_address<D>(a_tile, first + lane % 16, lane / 16);
  Shared b_rows = chunk_address<D>(b_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
  u32 a[M][4], b[4];
#pragma unroll
  for (int m = 0; m < M; ++m) load_matrices(a[m], a_rows + 16 * m * ROW);
  load_matrices(b, b_rows);
#pragma unroll 1
  for (int turn = 0; turn < ALL; turn += TOGETHER)
#pragma unroll
    for (int step = 0; step < TOGETHER; ++step) {
      int k = turn + step, next = k + 1 < ALL ? k + 1 : 0;  // after the last, loads that nobody needs
      u32 next_a[M][4];
#pragma unroll
      for (int n = 0; n < N / 2; ++n) {
        u32 next_b[4];
        if (n + 1 < N / 2) {
          load_matrices(next_b, chunks_right<D>(b_rows, 2 * k) + 16 * (n + 1) * ROW);
        } else {
#pragma unroll
          for (int m = 0; m < M; ++m) load_matrices(next_a[m], chunks_right<D>(a_rows, 2 * next) + 16 * m * ROW);
          load_matrices(next_b, chunks_right<D>(b_rows, 2 * next));
        }
#pragma unroll
        for (int m = 0; m < M; ++m) multiply<T>(acc[m][2 * n], acc[m][2 * n + 1], a[m], b);
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] = next_b[i];
      }
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[m][i] = next_a[m][i];
    }
}

// acc += A B for one step of 16 of what is summed over, and 8 N columns of B from chunk `first_chunk`, a multiple of N.
// `rows` is where this lane's row of the first step begins, at chunk 0 or 1, and `step` how many bytes further down the
// step is: the swizzle being the same there, it is added last, where it is a constant of the instruction.
template <class T, int D, int M, int N>
DEVICE void multiply_columns(float (&acc)[M][N][4], const u32 (&a)[M][4], Shared rows, int first_chunk, u32 step) {
  static_assert(N % 2 == 0);
  constexpr int GROUP = D % 64 == 0 ? 8 : 4;
  // Where N chunks from any multiple of N on never share a group with others, first_chunk goes into the address once.
  constexpr bool WHOLE = N % GROUP == 0 || GROUP % N == 0;
  Shared first = chunks_right<D>(rows, first_chunk);
#pragma unroll
  for (int n = 0; n < N / 2; ++n) {
    u32 b[4];
    Shared right = WHOLE ? chunks_right<D>(first, 2 * n) : chunks_right<D>(rows, first_chunk + 2 * n);
    load_matrices_transposed(b, right + step);
#pragma unroll
    for (int m = 0; m < M; ++m) multiply<T>(acc[m][2 * n], acc[m][2 * n + 1], a[m], b);
  }
}

// acc += P B: P, 16 M x 8 K, rounded to T in registers, against the 8 K rows of tile B, 8 N columns from chunk
// `first_chunk`, a multiple of N.
// Two accumulators of 16 x 8 are, element for element, one left operand of 16 x 16.
template <class T, int D, int M, int K, int N>
DEVICE void weights_by_rows(float (&acc)[M][N][4], const float (&p)[M][K][4], Shared b_tile, int first_chunk) {
  static_assert(K % 2 == 0);
  constexpr u32 ROW = D * 2;  // bytes; 16 rows down, the swizzle is the same
  int lane = static_cast<int>(lane_index());
  Shared b_rows = chunk_address<D>(b_tile, lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < K / 2; ++k) {
    u32 a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = pack<T>(p[m][2 * k + i / 2][i % 2 * 2], p[m][2 * k + i / 2][i % 2 * 2 + 1]);
    multiply_columns<T, D>(acc, a, b_rows, first_chunk, 16 * k * ROW);
  }
}

// acc += A B: A from a tile of WIDTH columns, which holds it as it is or TRANSPOSED; rows [first, first + 16 M) of A, a
// multiple of 16 M, against the 8 K rows of tile B, 8 N columns from chunk `first_chunk`, a multiple of N.
template <class T, int WIDTH, bool TRANSPOSED, int D, int K, int M, int N>
DEVICE void tile_by_rows(float (&acc)[M][N][4], Shared a_tile, int first, Shared b_tile, int first_chunk) {
  static_assert(K % 2 == 0 && (!TRANSPOSED || 2 * M <= (WIDTH % 64 == 0 ? 8 : 4)));
  constexpr u32 ROW = D * 2, A_ROW = WIDTH * 2;  // bytes; 16 rows down, the swizzle is the same
  int lane = static_cast<int>(lane_index());
  Shared b_rows = chunk_address<D>(b_tile, lane % 16, lane / 16);
  Shared a_rows = TRANSPOSED ? chunk_address<WIDTH>(a_tile, lane % 8 + lane / 16 * 8, first / 8 + lane / 8 % 2)
                             : chunk_address<WIDTH>(a_tile, first + lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < K / 2; ++k) {
    u32 a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if constexpr (TRANSPOSED)
        load_matrices_transposed(a[m], chunks_right<WIDTH>(a_rows, 2 * m) + 16 * k * A_ROW);
      else
        load_matrices(a[m], chunks_right<WIDTH>(a_rows, 2 * k) + 16 * m * A_ROW);
    }
    multiply_columns<T, D>(acc, a, b_rows, first_chunk, 16 * k * ROW);
  }
}
}  // namespace fa2
