// The machine on a CPU: see machine.cuh for what each name means, fibers.hpp and memory.hpp for how it comes about.
//
// It is an adversary. Copies land when a wait says that they must have, and not before; shared memory and stacks begin
// as NaN; warps overtake one another; every access is checked. Products are exact in fp32 and summed in order of k,
// which a tensor core need not do: results agree with a GPU's within the error bounds, not to the bit.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "memory.hpp"

#define DEVICE inline
#define INFINITE __builtin_huge_valf()

namespace fa2 {
using emulator::Site;

DEVICE u32 thread_index() { return emulator::block.thread; }
DEVICE u32 lane_index() { return thread_index() % 32; }
DEVICE u32 warp_index() { return thread_index() / 32; }
DEVICE u32 block_index() { return emulator::block.index; }

// Global memory. A pointer remembers its tensor; arithmetic is on addresses, which may leave it as long as no access
// does.

template <class T>
struct GlobalPointer {
  uintptr_t at;
  const emulator::Range* range;
  GlobalPointer operator+(i64 elements) const { return {at + static_cast<uintptr_t>(elements) * sizeof(T), range}; }
};

template <class T>
GlobalPointer<T> global(T* pointer) {
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  return {address, emulator::range_of(address)};
}
template <class T>
T load(GlobalPointer<T> from, Site site = Site::current()) {
  emulator::check_global(from.at, sizeof(T), from.range, "load", site);
  return *reinterpret_cast<const T*>(from.at);
}
template <class T>
void store(GlobalPointer<T> to, T value, Site site = Site::current()) {
  emulator::check_global(to.at, sizeof(T), to.range, "store", site);
  *reinterpret_cast<T*>(to.at) = value;
}
template <class T>
Words load_words(GlobalPointer<T> from, Site site = Site::current()) {
  emulator::check_global(from.at, sizeof(Words), from.range, "load", site);
  Words words;
  std::memcpy(&words, reinterpret_cast<const void*>(from.at), sizeof words);
  return words;
}
template <class T>
void store_words(GlobalPointer<T> to, Words words, Site site = Site::current()) {
  emulator::check_global(to.at, sizeof(Words), to.range, "store", site);
  std::memcpy(reinterpret_cast<void*>(to.at), &words, sizeof words);
}

// FA2_SCALAR_ATOMICS: as on a GPU before compute capability 9.0.
#ifdef FA2_SCALAR_ATOMICS
constexpr bool VECTOR_ATOMICS = false;
#else
constexpr bool VECTOR_ATOMICS = true;
#endif
DEVICE void atomic_add(GlobalPointer<float> to, float x, Site site = Site::current()) {
  emulator::check_global(to.at, sizeof(float), to.range, "atomic_add", site);
  *reinterpret_cast<float*>(to.at) += x;
}
DEVICE void atomic_add_words(GlobalPointer<float> to, const float (&x)[4], Site site = Site::current()) {
  emulator::check_global(to.at, sizeof x, to.range, "atomic_add", site);
  for (unsigned i = 0; i < 4; ++i) reinterpret_cast<float*>(to.at)[i] += x[i];
}

// Shared memory

using Shared = u32;

DEVICE Shared shared_memory() { return 0; }
DEVICE u32 shared_load(Shared from, Site site = Site::current()) {
  u32 value;
  std::memcpy(&value, emulator::shared.read(from, 4, thread_index(), site), 4);
  return value;
}
DEVICE void shared_store(Shared to, u32 value, Site site = Site::current()) {
  std::memcpy(emulator::shared.write(to, 4, thread_index(), site), &value, 4);
}
DEVICE Words shared_load_words(Shared from, Site site = Site::current()) {
  Words words;
  std::memcpy(&words, emulator::shared.read(from, 16, thread_index(), site), 16);
  return words;
}
DEVICE void shared_store_words(Shared to, Words words, Site site = Site::current()) {
  std::memcpy(emulator::shared.write(to, 16, thread_index(), site), &words, 16);
}

// Copies: a thread's groups in order, the last one open.

namespace emulator {
inline std::vector<std::vector<std::vector<Copy>>> copies;

inline void begin_copy(Shared to, uintptr_t from, unsigned bytes, const Range* range, bool valid, const Site& site) {
  if (valid) check_global(from, bytes, range, "copy", site);
  Copy copy{to, bytes, valid ? reinterpret_cast<const void*>(from) : nullptr, site};
  shared.announce(copy, thread_index());
  copies[thread_index()].back().push_back(copy);
}
}  // namespace emulator

DEVICE void copy_async(Shared to, GlobalPointer<u16> from, bool valid, Site site = Site::current()) {
  emulator::begin_copy(to, from.at, 16, from.range, valid, site);
}
template <class T>
void copy_async_word(Shared to, GlobalPointer<T> from, bool valid, Site site = Site::current()) {
  static_assert(sizeof(T) == 4);
  emulator::begin_copy(to, from.at, 4, from.range, valid, site);
}
DEVICE void commit_copies() { emulator::copies[thread_index()].emplace_back(); }
template <int n>
void wait_copies() {
  auto& groups = emulator::copies[thread_index()];
  while (groups.size() > n + 1) {
    for (const emulator::Copy& copy : groups.front()) emulator::shared.land(copy, thread_index());
    groups.erase(groups.begin());
  }
}

DEVICE void block_sync(Site site = Site::current()) { emulator::block.meet_block("block_sync", site); }
DEVICE void warp_sync(Site site = Site::current()) {
  int nothing = 0;
  emulator::block.meet_warp("warp_sync", nothing, site,
                            [](int**) { ++emulator::block.warps[emulator::block.thread / 32].epoch; });
}

// Matrices

namespace emulator {
struct MatrixLoad {
  u32* r;
  Shared address;
};

// All of a warp's lanes at once: matrix m's row i is at the address of lane 8 m + i. `site` is the last lane's.
inline void load_all(MatrixLoad** lanes, bool transposed, const Site& site) {
  u16 element[4][8][8];
  unsigned first = block.thread / LANES * LANES;
  for (unsigned lane = 0; lane < LANES; ++lane)
    std::memcpy(element[lane / 8][lane % 8], shared.read(lanes[lane]->address, 16, first + lane, site), 16);
  for (unsigned lane = 0; lane < LANES; ++lane)
    for (unsigned m = 0; m < 4; ++m) {
      unsigned row = lane / 4, column = lane % 4 * 2;
      u32 low = transposed ? element[m][column][row] : element[m][row][column];
      u32 high = transposed ? element[m][column + 1][row] : element[m][row][column + 1];
      lanes[lane]->r[m] = low | high << 16;
    }
}

struct Product {
  float* d[2];
  const u32* a;
  const u32* b;
};
}  // namespace emulator

DEVICE void load_matrices(u32 (&r)[4], Shared address, Site site = Site::current()) {
  emulator::MatrixLoad operand{r, address};
  emulator::block.meet_warp("load_matrices", operand, site,
                            [&](emulator::MatrixLoad** lanes) { emulator::load_all(lanes, false, site); });
}
DEVICE void load_matrices_transposed(u32 (&r)[4], Shared address, Site site = Site::current()) {
  emulator::MatrixLoad operand{r, address};
  emulator::block.meet_warp("load_matrices_transposed", operand, site,
                            [&](emulator::MatrixLoad** lanes) { emulator::load_all(lanes, true, site); });
}

template <class T>
float unpack(u16 bits);
template <>
inline float unpack<Half>(u16 bits) {
  return _cvtsh_ss(bits);
}
template <>
inline float unpack<BFloat>(u16 bits) {
  return std::bit_cast<float>(static_cast<u32>(bits) << 16);
}

// Fragments as the PTX manual draws them: lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
template <class T>
void multiply(float (&d)[4], float (&e)[4], const u32 (&a)[4], const u32 (&b)[4], Site site = Site::current()) {
  emulator::Product operand{{d, e}, a, b};
  emulator::block.meet_warp("multiply", operand, site, [](emulator::Product** lanes) {
    // The two products side by side: right operands and sums of 16 columns.
    alignas(32) float left[16][16], right[16][16], sum[16][16];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const emulator::Product& own = *lanes[lane];
      unsigned row = lane / 4, column = lane % 4 * 2;
      for (unsigned i = 0; i < 4; ++i)
        for (unsigned half = 0; half < 2; ++half) {
          left[row + i % 2 * 8][column + half + i / 2 * 8] = unpack<T>(static_cast<u16>(own.a[i] >> 16 * half));
          right[column + half + i % 2 * 8][row + i / 2 * 8] = unpack<T>(static_cast<u16>(own.b[i] >> 16 * half));
        }
      for (unsigned i = 0; i < 8; ++i) sum[row + i / 2 % 2 * 8][column + i % 2 + i / 4 * 8] = own.d[i / 4][i % 4];
    }
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned first = 0; first < 16; first += 8) {
        __m256 line = _mm256_load_ps(&sum[row][first]);
        for (unsigned k = 0; k < 16; ++k)
          line = _mm256_fmadd_ps(_mm256_set1_ps(left[row][k]), _mm256_load_ps(&right[k][first]), line);
        _mm256_store_ps(&sum[row][first], line);
      }
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned i = 0; i < 8; ++i)
        lanes[lane]->d[i / 4][i % 4] = sum[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8];
  });
}

template <class T>
DEVICE T shuffle_xor(T x, u32 mask, Site site = Site::current()) {
  struct Shuffle {
    T value;
    u32 mask;
  } operand{x, mask};
  emulator::block.meet_warp("shuffle_xor", operand, site, [](Shuffle** lanes) {
    T before[32];
    for (unsigned lane = 0; lane < 32; ++lane) before[lane] = lanes[lane]->value;
    for (unsigned lane = 0; lane < 32; ++lane) lanes[lane]->value = before[lane ^ lanes[lane]->mask];
  });
  return operand.value;
}

// Numbers

template <class T>
u32 pack(float low, float high);
template <>
inline u32 pack<Half>(float low, float high) {
  return static_cast<u32>(_cvtss_sh(low, 0)) | static_cast<u32>(_cvtss_sh(high, 0)) << 16;
}
template <>
inline u32 pack<BFloat>(float low, float high) {
  auto nearest = [](float x) -> u32 {
    u32 bits = std::bit_cast<u32>(x);
    // Half a unit, less one where the kept part is even: a tie then carries into odd patterns only.
    return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
  };
  return nearest(low) | nearest(high) << 16;
}

DEVICE float as_float(u32 bits) { return std::bit_cast<float>(bits); }
DEVICE u32 as_bits(float value) { return std::bit_cast<u32>(value); }
DEVICE float exp2(float x) { return std::exp2(x); }
DEVICE float log2(float x) { return std::log2(x); }
DEVICE float reciprocal(float x) { return 1.0f / x; }
DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE float maximum(float a, float b) { return std::fmax(a, b); }
DEVICE float absolute(float x) { return std::fabs(x); }
DEVICE u32 high_word(u32 a, u32 b) { return static_cast<u32>(static_cast<u64>(a) * b >> 32); }

namespace emulator {
inline std::string report;

// Runs `kernel` on a grid, blocks in a random order. Returns nullptr, or what went wrong.
inline const char* launch(unsigned blocks, unsigned threads, size_t shared_bytes, const Range* first_range,
                          unsigned count, uint64_t seed, const std::function<void()>& kernel) {
  ranges = first_range;
  range_count = count;
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  Random random(seed);
  for (unsigned i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
  for (unsigned index : order) {
    shared.prepare(shared_bytes);
    copies.assign(threads, std::vector<std::vector<Copy>>(1));
    if (!block.run(index, threads, seed, kernel)) {
      report = block.failure;
      return report.c_str();
    }
  }
  return nullptr;
}
}  // namespace emulator
}  // namespace fa2
