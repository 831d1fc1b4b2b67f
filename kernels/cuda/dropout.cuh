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

DEVICE Words dropout_words(const Work& work, int head, int query, int key) {
  return philox(static_cast<u32>(key) / 4, static_cast<u32>(query), static_cast<u32>(head),
                static_cast<u32>(work.sequence), work.seed_low, work.seed_high);
}

DEVICE bool kept(const Call& call, const Words& words, int key) {
  // Selected, not indexed: an index known only at run time would put the words into local memory.
  u32 low = key & 1 ? words.word[1] : words.word[0];
  u32 high = key & 1 ? words.word[3] : words.word[2];
  return (key & 2 ? high : low) >= call.drop_below;
}

// Which of a thread's scores are kept, a bit each, asked for before the scores are there, while copies are on their way.
// In loops: unrolled for every score, Philox would take longer to compile than the rest of a kernel.

// Bit 4 n + e: score e of fragment n, 8 keys from `column` + 8 n on; 16 queries from `row` down. `column` is even.
template <int N>
DEVICE u64 kept_of_rows(const Call& call, const Work& work, int row, int column) {
  static_assert(4 * N <= 64);
  int query = row + static_cast<int>(lane_index()) / 4, first = column + static_cast<int>(lane_index()) % 4 * 2;
  u64 bits = 0;
#pragma unroll 2
  for (int pair = 0; pair < 2 * N; ++pair) {
    int key = first + pair / 2 * 8;  // and its neighbour, whose word is of the same counter
    Words words = dropout_words(work, work.head, query + pair % 2 * 8, key);
    bits |= (kept(call, words, key) ? 1ull : 0ull) << 2 * pair;
    bits |= (kept(call, words, key + 1) ? 2ull : 0ull) << 2 * pair;
  }
  return bits;
}

// Transposed, bit 4 (N m + n) + e: score e of fragment n, 8 queries from `row` + 8 n on; 16 keys from `key` + 16 m down.
template <int M, int N>
DEVICE u64 kept_of_columns(const Call& call, const Work& work, int row, int key, int head) {
  static_assert(4 * M * N <= 64);
  int first_key = key + static_cast<int>(lane_index()) / 4, first = row + static_cast<int>(lane_index()) % 4 * 2;
  u64 bits = 0;
#pragma unroll 2
  for (int score = 0; score < 4 * M * N; ++score) {
    int fragment = score / 4, own_key = first_key + fragment / N * 16 + score / 2 % 2 * 8;
    Words words = dropout_words(work, head, first + fragment % N * 8 + score % 2, own_key);
    bits |= (kept(call, words, own_key) ? 1ull : 0ull) << score;
  }
  return bits;
}

DEVICE bool is_kept(u64 bits, int score) { return bits >> score & 1; }
}  // namespace fa2
