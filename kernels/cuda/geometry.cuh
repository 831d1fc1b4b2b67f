// Where a block's work lies: its sequence, head and tile, and which tiles of the other side can see it.
#pragma once

#include "call.cuh"

namespace fa2 {
struct Extent {
  i64 begin;  // times the sequence stride: the offset of the sequence, in elements
  int length;
};

DEVICE Extent sequence_extent(const int* cu_seqlens, int seqlen, int sequence) {
  if (!cu_seqlens) return {sequence, seqlen};
  GlobalPointer<const int> offsets = global(cu_seqlens);
  int begin = load(offsets + sequence);
  return {begin, load(offsets + sequence + 1) - begin};
}

struct Work {
  int block, head, sequence;
  Extent q, k;
  int diagonal;             // query i has key i + diagonal on its diagonal
  u32 seed_low, seed_high;  // of dropout
};

// The grid is one-dimensional because its y and z dimensions end at 65,535, which batch * heads may pass. Later blocks
// of queries see more keys under a causal mask: they start first, which shortens the tail of the grid.
DEVICE Work find_work(const Call& call, u32 program, int heads) {
  Work work;
  work.block = call.blocks - 1 - static_cast<int>(program % call.blocks);
  u32 rest = program / call.blocks;
  work.head = static_cast<int>(rest % heads);
  work.sequence = static_cast<int>(rest / heads);
  work.q = sequence_extent(call.cu_seqlens_q, call.seqlen_q, work.sequence);
  work.k = sequence_extent(call.cu_seqlens_k, call.seqlen_k, work.sequence);
  work.diagonal = call.top_left ? 0 : work.k.length - work.q.length;
  // In memory, so that a captured graph draws anew each replay. Without dropout nobody uses it, and it is not loaded.
  u64 seed = call.dropout_seed ? static_cast<u64>(load(global(call.dropout_seed))) : 0;
  work.seed_low = static_cast<u32>(seed);
  work.seed_high = static_cast<u32>(seed >> 32);
  return work;
}

// The first row of a head of a sequence. 64 bits: each product may pass 2^31.
DEVICE GlobalPointer<u16> head_rows(const View& view, const Extent& extent, int head) {
  return global(view.data) + (extent.begin * view.sequence_stride + head * view.head_stride);
}

DEVICE i64 lse_offset(const Call& call, const Extent& extent, int head) {
  return extent.begin * call.lse_sequence_stride + head * call.lse_head_stride;
}

struct TileRange {
  int begin, end;  // tile indices
};

DEVICE TileRange tiles(int first, int last, int size) {
  return first > last ? TileRange{0, 0} : TileRange{first / size, last / size + 1};
}

// Tiles of `size` keys of which some query in [row, row + rows) may see one.
DEVICE TileRange visible_keys(const Call& call, const Work& work, int row, int rows, int size) {
  int row_end = row + rows < work.q.length ? row + rows : work.q.length;
  int first = row + work.diagonal - call.left, last = row_end - 1 + work.diagonal + call.right;
  return tiles(first > 0 ? first : 0, last < work.k.length ? last : work.k.length - 1, size);
}

// Tiles of `size` queries that may see some key in [column, column + columns).
DEVICE TileRange seeing_queries(const Call& call, const Work& work, int column, int columns, int size) {
  int column_end = column + columns < work.k.length ? column + columns : work.k.length;
  int first = column - work.diagonal - call.right, last = column_end - 1 - work.diagonal + call.left;
  return tiles(first > 0 ? first : 0, last < work.q.length ? last : work.q.length - 1, size);
}
}  // namespace fa2
