// The dropout mask: Philox4x32-10 (Salmon et al., SC'11), a pure function of seed, sequence, head, query and key.
//
//   words = philox(counter = (key / 4, query, head, sequence), key = seed), kept if words[key % 4] >= drop_below
//
// Positions are absolute, so that forward and backward draw the same mask whatever their tiles.
#pragma once

#include "geometry.cuh"

namespace fa2 {
DEVICE Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
  constexpr u32 M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    u32 high0 = high_word(M0, c0), high1 = high_word(M1, c2);
    u32 low0 = M0 * c0, low1 = M1 * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A bit each: whether keys 4 c to 4 c + 3 are kept by one query, where `key` is 4 c.
DEVICE u64 kept_of_four(const Call& call, const Work& work, int head, int query, int key) {
  Words words = philox(static_cast<u32>(key) / 4, static_cast<u32>(query), static_cast<u32>(head),
                       static_cast<u32>(work.sequence), work.seed_low, work.seed_high);
  u64 bits = 0;
#pragma unroll
  for (int e = 0; e < 4; ++e) bits |= words.word[e] >= call.drop_below ? 1ull << e : 0;
  return bits;
}

// Which of a thread's scores are kept: bit 4 i + e is score e of fragment i. Asked for before the scores are there, while
// copies are on their way, and in a loop: unrolled, Philox would take longer to compile than the rest of a kernel.
//
// A counter's four words are of scores that several lanes hold. Of a fragment's counters each lane draws one, and then
// they exchange bits, for all fragments at once.

// Fragments of 16 queries from `row` down and 8 keys across, the first from `column` on. Lanes 2 l and 2 l + 1 hold four
// keys of two queries, two keys each: the even one draws for the upper query, the odd one for the lower.
template <int N>
DEVICE u64 kept_of_rows(const Call& call, const Work& work, int row, int column) {
  static_assert(4 * N <= 64);
  constexpr u64 FIRST = 0x3333333333333333ull;  // of each fragment the first two keys
  int lane = static_cast<int>(lane_index());
  int query = row + lane / 4 + lane % 2 * 8, key = column + lane % 4 / 2 * 4;
  u64 own = 0;
#pragma unroll 2
  for (int n = 0; n < N; ++n) own = own >> 4 | kept_of_four(call, work, work.head, query, key + 8 * n) << 60;
  own >>= 64 - 4 * N;
  u64 other = shuffle_xor(own, 1);
  return lane % 2 ? (own & ~FIRST) | (other & ~FIRST) >> 2 : (own & FIRST) | (other & FIRST) << 2;
}

// Transposed: M x N fragments of 16 keys from `key` down and 8 queries across, the first from `row` on, fragment
// N m + n. Four lanes, 4 apart, hold four keys of two queries and of two more 8 keys down: 4 x 4 scores, of which each
// draws what the one score of all four needs, and the square of bits is transposed.
template <int M, int N>
DEVICE u64 kept_of_columns(const Call& call, const Work& work, int row, int key, int head) {
  static_assert(4 * M * N <= 64);
  constexpr u64 EVEN = 0x5555555555555555ull, FIRST = 0x3333333333333333ull;
  int lane = static_cast<int>(lane_index()), score = lane / 4 % 4;
  int query = row + lane % 4 * 2 + score % 2, first_key = key + lane / 16 * 4 + score / 2 * 8;
  u64 own = 0;
#pragma unroll 2
  for (int i = 0; i < M * N; ++i)
    own = own >> 4 | kept_of_four(call, work, head, query + i % N * 8, first_key + i / N * 16) << 60;
  own >>= 64 - 4 * M * N;
  u64 other = shuffle_xor(own, 4);
  own = score % 2 ? (own & ~EVEN) | (other & ~EVEN) >> 1 : (own & EVEN) | (other & EVEN) << 1;
  other = shuffle_xor(own, 8);
  return score / 2 ? (own & ~FIRST) | (other & ~FIRST) >> 2 : (own & FIRST) | (other & FIRST) << 2;
}

DEVICE bool is_kept(u64 bits, int score) { return bits >> score & 1; }
}  // namespace fa2
