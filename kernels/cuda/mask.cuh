// Which keys a query sees: key j of query i if i + diagonal - left <= j <= i + diagonal + right and j < length.
//
// Causal is right = 0. A tile in which everything is visible skips the mask: that is most of them.
#pragma once

#include "geometry.cuh"

namespace fa2 {
struct Keys {
  int first, last;  // both visible; first > last: none
};

DEVICE Keys visible_keys_of(const Call& call, const Work& work, int row) {
  int center = row + work.diagonal, last = center + call.right;
  return {center - call.left, last < work.k.length ? last : work.k.length - 1};
}

// The same as a question of one query and key, both of the sequence or not.
DEVICE bool is_visible(const Call& call, const Work& work, int query, int key) {
  int distance = key - query - work.diagonal;
  // One comparison for both ends of the window: a distance left of it wraps to beyond the right.
  bool near = static_cast<u32>(distance + call.left) <= static_cast<u32>(call.left + call.right);
  return near && key < work.k.length && query < work.q.length;
}

// Whether some score of the tile is masked.
DEVICE bool needs_mask(const Call& call, const Work& work, int row, int rows, int column, int columns) {
  int column_last = column + columns - 1;
  return column_last >= work.k.length || column_last > row + work.diagonal + call.right ||
         column < row + rows - 1 + work.diagonal - call.left;
}
}  // namespace fa2
