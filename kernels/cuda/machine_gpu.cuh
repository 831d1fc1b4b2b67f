// The machine on a GPU of compute capability 8.0 and later: see machine.cuh for what each name means.
#pragma once

#define DEVICE __device__ __forceinline__
#define INFINITE __int_as_float(0x7f800000)

namespace fa2 {
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 lane_index() { return threadIdx.x % 32; }
DEVICE u32 warp_index() { return threadIdx.x / 32; }
DEVICE u32 block_index() { return blockIdx.x; }

// Global memory

template <class T>
struct GlobalPointer {
  T* at;
  DEVICE GlobalPointer operator+(i64 elements) const { return {at + elements}; }
};

template <class T>
DEVICE GlobalPointer<T> global(T* pointer) {
  return {pointer};
}
template <class T>
DEVICE T load(GlobalPointer<T> from) {
  return *from.at;
}
template <class T>
DEVICE void store(GlobalPointer<T> to, T value) {
  *to.at = value;
}
template <class T>
DEVICE Words load_words(GlobalPointer<T> from) {
  return *reinterpret_cast<const Words*>(from.at);
}
template <class T>
DEVICE void store_words(GlobalPointer<T> to, Words words) {
  // Assigned through a pointer, they may become four stores of a word each.
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to.at)), "r"(words.word[0]),
               "r"(words.word[1]), "r"(words.word[2]), "r"(words.word[3])
               : "memory");
}

#if __CUDA_ARCH__ >= 900
constexpr bool VECTOR_ATOMICS = true;
#else
constexpr bool VECTOR_ATOMICS = false;
#endif
DEVICE void atomic_add(GlobalPointer<float> to, float x) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(to.at)), "f"(x) : "memory");
}
DEVICE void atomic_add_words(GlobalPointer<float> to, const float (&x)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to.at)),
               "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) atomic_add(to + i, x[i]);
#endif
}

// Shared memory

using Shared = u32;

DEVICE Shared shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return static_cast<Shared>(__cvta_generic_to_shared(memory));
}
// "memory": the compiler must not move these past a barrier or past one another.
DEVICE u32 shared_load(Shared from) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}
DEVICE void shared_store(Shared to, u32 value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
DEVICE Words shared_load_words(Shared from) {
  Words words;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
               : "r"(from)
               : "memory");
  return words;
}
DEVICE void shared_store_words(Shared to, Words words) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words.word[0]), "r"(words.word[1]),
               "r"(words.word[2]), "r"(words.word[3])
               : "memory");
}

// A source size of 0 fills with zeros and reads nothing, so an address outside the tensor does no harm.
DEVICE void copy_async(Shared to, GlobalPointer<u16> from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from.at)),
               "r"(valid ? 16 : 0)
               : "memory");
}
template <class T>
DEVICE void copy_async_word(Shared to, GlobalPointer<T> from, bool valid) {
  static_assert(sizeof(T) == 4);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from.at)),
               "r"(valid ? 4 : 0)
               : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n>
DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }

// Matrices

DEVICE void load_matrices(u32 (&r)[4], Shared address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], Shared address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Both products in one statement: the compiler's time goes by statements, and these are most of a kernel's. "&": d is
// written before all operands are read.
#define FA2_PRODUCT(type, d, b) \
  "mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {" d "}, {%8, %9, %10, %11}, {" b "}, {" d "};\n"
#define FA2_MULTIPLY(type)                                                                                          \
  asm volatile(FA2_PRODUCT(type, "%0, %1, %2, %3", "%12, %13") FA2_PRODUCT(type, "%4, %5, %6, %7", "%14, %15")      \
               : "+&f"(d[0]), "+&f"(d[1]), "+&f"(d[2]), "+&f"(d[3]), "+f"(e[0]), "+f"(e[1]), "+f"(e[2]), "+f"(e[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]))
template <class T>
DEVICE void multiply(float (&d)[4], float (&e)[4], const u32 (&a)[4], const u32 (&b)[4]);
template <>
DEVICE void multiply<Half>(float (&d)[4], float (&e)[4], const u32 (&a)[4], const u32 (&b)[4]) {
  FA2_MULTIPLY("f16");
}
template <>
DEVICE void multiply<BFloat>(float (&d)[4], float (&e)[4], const u32 (&a)[4], const u32 (&b)[4]) {
  FA2_MULTIPLY("bf16");
}
#undef FA2_PRODUCT
#undef FA2_MULTIPLY

template <class T>
DEVICE T shuffle_xor(T x, u32 mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}

// Numbers

template <class T>
DEVICE u32 pack(float low, float high);
template <>
DEVICE u32 pack<Half>(float low, float high) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
DEVICE u32 pack<BFloat>(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <class T>
DEVICE float unpack(u16 bits);
template <>
DEVICE float unpack<Half>(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
template <>
DEVICE float unpack<BFloat>(u16 bits) {
  return __uint_as_float(static_cast<u32>(bits) << 16);
}

DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 as_bits(float value) { return __float_as_uint(value); }
DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float log2(float x) { return ::log2f(x); }
DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
DEVICE float maximum(float a, float b) { return ::fmaxf(a, b); }
DEVICE float absolute(float x) { return ::fabsf(x); }
DEVICE u32 high_word(u32 a, u32 b) { return __umulhi(a, b); }
}  // namespace fa2
