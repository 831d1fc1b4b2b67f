// The machine: everything that a kernel cannot say in portable C++, behind one set of names.
//
// Two implementations of one contract. Under NVRTC each name is an instruction or two (machine_gpu.cuh); under a host
// C++20 compiler each is a call into the emulator (machine_host.hpp), which runs a block's threads as fibers. No other
// header has inline PTX, a barrier, or a raw pointer to shared or global memory.
// clang-format off
//
//   DEVICE                           how functions are declared
//   INFINITE                         positive infinity, float
//   Half, BFloat                     element types: tags; values are u16 bits, pairs are packed in a u32, low half first
//   thread_index, lane_index, warp_index, block_index
//   GlobalPointer<T>                 a T* that the emulator knows the tensor of; made by global(pointer)
//     load, store                    one T
//     load_words, store_words        16 bytes, at a multiple of 16
//     atomic_add                     adds a float to one in memory; in no order with what others add
//     atomic_add_words               four floats, at a multiple of 16 bytes; one instruction where VECTOR_ATOMICS
//   Shared                           an address in the block's shared memory, in bytes; made by shared_memory(), which is
//                                    at a multiple of 1024
//   shared_load, shared_store        4 bytes; shared_load_words, shared_store_words: 16
//   copy_async(to, from, valid)      16 bytes from global to shared memory, zeros if not valid; lands at some time before
//                                    wait_copies returns
//   copy_async_word(to, from, valid) the same of 4 bytes
//   commit_copies()                  closes a group of this thread's copies
//   wait_copies<n>()                 returns when at most the n latest groups of this thread are still under way
//   block_sync(), warp_sync()        barriers, which order shared memory too
//   load_matrices(r, address)        ldmatrix.x4: lane l gives the address of row l % 8 of 8 x 8 matrix l / 8
//   load_matrices_transposed         the same, each matrix transposed
//   multiply<T>(d, e, a, b)          d += a b' and e += a b", mma.m16n8k16 with fp32 accumulators; b, as load_matrices
//                                    gives it, is b' and then b", two words each
//   shuffle_xor(x, mask)             x, a float or an integer, of the lane whose index differs by mask
//   pack<T>, unpack<T>               two floats to a u32, to nearest even; 16 bits to a float
//   exp2, log2, reciprocal, fma, maximum, absolute, as_float, as_bits, high_word (of a 32 x 32 bit product)
// clang-format on
#pragma once

namespace fa2 {
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

struct Half {};
struct BFloat {};

struct alignas(16) Words {
  u32 word[4];
};
}  // namespace fa2

#if defined(__CUDACC_RTC__)
#include "machine_gpu.cuh"
#else
#include "machine_host.hpp"
#endif

namespace fa2 {
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;
}  // namespace fa2
