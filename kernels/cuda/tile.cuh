// Tiles: rows x D elements in shared memory, swizzled, and their way from and to global memory.
//
// A row is D / 8 chunks of 16 bytes. Chunk c of row r lies at place c ^ (r % 8) of its group of eight (D = 32: of four,
// by r / 2 % 4), so that the eight rows which ldmatrix reads at once, and the chunks that neighbouring threads write,
// lie in different banks. head_dim is padded to D here: what lies beyond it, or beyond the last row, is zero in the
// tile and is not touched in memory.
#pragma once

#include "geometry.cuh"

namespace fa2 {
template <int D>
DEVICE Shared chunk_address(Shared tile, int row, int chunk) {
  static_assert(D % 32 == 0);
  int place = D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
  return tile + static_cast<u32>(row * D + place * 8) * 2;
}

template <int ROWS, int D>
constexpr u32 TILE_BYTES = ROWS * D * 2;

// The address of the chunk `chunks` to the right of the one at `address`, which is chunk 0 of its row, or 1 if `chunks`
// is even. A row begins at a multiple of a group's size, so that the swizzle's exclusive or acts on the address itself:
// one instruction, where computing the place anew would cost four and a register each.
template <int D>
DEVICE Shared chunks_right(Shared address, int chunks) {
  constexpr int GROUP = D % 64 == 0 ? 8 : 4;
  return (address ^ static_cast<u32>(chunks % GROUP * 16)) + static_cast<u32>(chunks / GROUP * GROUP * 16);
}

// Fetches 8 elements at `from` to `to`, or zeros; of a narrow tensor one by one, `columns` of them.
template <unsigned FEATURES>
DEVICE void fetch_chunk(const Call& call, Shared to, GlobalPointer<u16> from, bool valid, int columns) {
  if (!has<FEATURES>(call, NARROW)) {
    copy_async(to, from, valid);
    return;
  }
  Words words{};
#pragma unroll
  for (int e = 0; e < 8; ++e)
    if (valid && e < columns) words.word[e / 2] |= static_cast<u32>(load(from + e)) << 16 * (e % 2);
  shared_store_words(to, words);
}

// Fetches rows [0, ROWS) at `from`, of which `rows` exist, by all THREADS of the block. Done when this thread's copies
// have landed and a barrier has passed.
template <int ROWS, int D, int THREADS, unsigned FEATURES>
DEVICE void fetch_tile(const Call& call, Shared tile, GlobalPointer<u16> from, i64 row_stride, int rows) {
  // A thread stays in its column of chunks where it can, and its pointer moves down by a constant.
  constexpr int CHUNKS = D / 8, ACROSS = THREADS % CHUNKS == 0 ? CHUNKS : 4, DOWN = THREADS / ACROSS;
  static_assert(CHUNKS % ACROSS == 0 && ROWS % DOWN == 0);
  int row = static_cast<int>(thread_index()) / ACROSS, chunk = static_cast<int>(thread_index()) % ACROSS;
  // Elements that come one by one are slow anyway; unrolled, they would take as long to compile as all the rest.
  constexpr bool LOOPS = FEATURES & NARROW;
  constexpr int COPIES = LOOPS ? 1 : ROWS / DOWN, COLUMNS = LOOPS ? 1 : CHUNKS / ACROSS;
#pragma unroll COLUMNS
  for (int right = 0; right < CHUNKS; right += ACROSS) {
    int column = (chunk + right) * 8;
    GlobalPointer<u16> source = from + (row * row_stride + column);
#pragma unroll COPIES
    for (int down = 0; down < ROWS; down += DOWN) {
      fetch_chunk<FEATURES>(call, chunk_address<D>(tile, row + down, chunk + right), source,
                            row + down < rows && column < call.head_dim, call.head_dim - column);
      source = source + DOWN * row_stride;
    }
  }
}

// Fetches rows from `row` on of a head of two tensors, the second one's to the tile behind the first one's.
template <int ROWS, int D, int THREADS, unsigned FEATURES>
DEVICE void fetch_tiles(const Call& call, Shared tile, const View& first, const View& second, const Extent& extent,
                        int head, int row) {
  constexpr int TOGETHER = FEATURES & NARROW ? 1 : 2;  // as above
#pragma unroll TOGETHER
  for (int i = 0; i < 2; ++i) {
    const View& view = i ? second : first;
    fetch_tile<ROWS, D, THREADS, FEATURES>(call, tile + i * TILE_BYTES<ROWS, D>,
                                           head_rows(view, extent, head) + row * view.row_stride, view.row_stride,
                                           extent.length - row);
  }
}

// Rounds 16 M rows x 8 N columns of a warp's accumulators and stores them to rows `first` on of `to`, of which `rows`
// exist, columns from `column`. On their way they take the same place in `tile`, shared memory which nobody else has
// touched there since the last barrier.
template <class T, int D, unsigned FEATURES, int M, int N>
DEVICE void store_rows(const Call& call, const float (&acc)[M][N][4], Shared tile, int first, GlobalPointer<u16> to,
                       i64 row_stride, int rows, int column) {
  static_assert(8 * N <= D);
  int lane = static_cast<int>(lane_index());
  Shared own = chunk_address<D>(tile, first + lane / 4, 0) + lane % 4 * 4;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        shared_store(chunks_right<D>(own, column / 8 + n) + (16 * m + 8 * half) * D * 2,
                     pack<T>(acc[m][n][2 * half], acc[m][n][2 * half + 1]));
  warp_sync();  // the rows are whole
  // Enough at once to hide the latency of shared memory; more would lengthen what runs once a block.
  constexpr int COPIES = FEATURES & NARROW ? 1 : 4;
#pragma unroll COPIES
  for (int i = 0; i < M * N / 2; ++i) {
    int at = i * 32 + lane;
    int row = first + at / N, chunk = at % N;
    Words words = shared_load_words(chunk_address<D>(tile, row, column / 8 + chunk));
    int d = column + chunk * 8;
    if (row >= rows || d >= call.head_dim) continue;
    GlobalPointer<u16> target = to + (row * row_stride + d);
    if (!has<FEATURES>(call, NARROW)) {
      store_words(target, words);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (d + e < call.head_dim) store(target + e, static_cast<u16>(words.word[e / 2] >> 16 * (e % 2)));
    }
  }
}
}  // namespace fa2
