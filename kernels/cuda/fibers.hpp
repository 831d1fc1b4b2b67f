// Fibers, and the block of threads that they stand for: who runs, who waits where, and what happens when all have met.
//
// A thread of the emulated block is a stack and a stack pointer. It runs until it must wait for others: at a warp-wide
// operation for its 31 neighbours, at a barrier for the whole block. Whoever arrives last does the operation for all.
// What runs next is drawn from a seeded generator, so that a schedule can be repeated and many can be tried.
// x86-64 Linux only: the switch is ten instructions of assembly.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

// Saves the callee-saved registers on the stack of the fiber that leaves, and takes those of the one that enters.
extern "C" void fa2_switch(void** leave, void* enter);
asm(R"(
.text
.type fa2_switch, @function
fa2_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fa2_switch, .-fa2_switch
)");

// The address sanitizer must be told of each stack that is left and entered.
#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
extern "C" void __asan_unpoison_memory_region(const volatile void* address, size_t size);
#else
inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
inline void __asan_unpoison_memory_region(const volatile void*, size_t) {}
#endif

namespace fa2::emulator {
using Site = std::source_location;

constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned LANES = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr size_t STACK_BYTES = 128 * 1024;
constexpr size_t POISONED_STACK_BYTES = 8 * 1024;
constexpr size_t GUARD_BYTES = 4096;
constexpr size_t PITCH = STACK_BYTES + GUARD_BYTES;

inline std::string place(const Site& site) {
  const char* name = std::strrchr(site.file_name(), '/');
  return std::string(name ? name + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

inline bool same_place(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

struct Thread {
  void* stack_pointer = nullptr;
  const char* waits_for = nullptr;  // the operation; nullptr: it runs
  bool done = false;
  Site site;  // where it waits
};

struct Warp {
  uint32_t ready = 0;    // lanes that can run
  uint32_t arrived = 0;  // lanes that wait for the others of the warp
  unsigned epoch = 0;    // how many warp barriers have passed
  void* operands[LANES];
};

struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du) {
    for (int i = 0; i < 4; ++i) next();
  }
  uint32_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<uint32_t>(state >> 32);
  }
};

// One block at work.
class Block {
 public:
  unsigned index = 0;   // of the block in the grid
  unsigned thread = 0;  // the one that runs
  unsigned threads = 0;
  unsigned epoch = 0;  // how many block barriers have passed
  std::vector<Warp> warps;
  std::string failure;
  Random random{0};

  // Runs body on `count` threads until all have left it. Returns whether they did; else `failure` says what happened.
  bool run(unsigned block_index, unsigned count, uint64_t seed, const std::function<void()>& body) {
    index = block_index;
    threads = count;
    epoch = 0;
    failure.clear();
    random = Random(seed * 1000003 + block_index);
    body_ = &body;
    at_barrier_ = 0;
    alive_ = count;
    state_.assign(count, {});
    warps.assign(count / LANES, {});
    for (Warp& warp : warps) warp.ready = ALL_LANES;
    prepare_stacks();
    current_warp_ = random.next() % warps.size();
    thread = current_warp_ * LANES + pick_lane(ALL_LANES);
    main_bottom_ = nullptr;
    switch_to(&main_, thread);
    return failure.empty();
  }

  // Waits until the whole warp is here; the last lane to come calls execute with all lanes' operands.
  template <class Operand, class Execute>
  void meet_warp(const char* operation, Operand& operand, const Site& site, Execute execute) {
    Warp& warp = warps[thread / LANES];
    uint32_t lane = 1u << (thread % LANES);
    wait_at(operation, site);
    if (warp.arrived) {
      const Thread& first = state_[thread / LANES * LANES + __builtin_ctz(warp.arrived)];
      if (first.waits_for != operation || !same_place(first.site, site))
        fail("divergent warp operation: the lanes of warp " + std::to_string(thread / LANES) +
             " do not meet at one operation");
    }
    warp.operands[thread % LANES] = &operand;
    warp.arrived |= lane;
    if (warp.arrived != ALL_LANES) {
      warp.ready &= ~lane;
      leave();
      return;
    }
    execute(reinterpret_cast<Operand**>(warp.operands));
    warp.arrived = 0;
    warp.ready = ALL_LANES;
    state_[thread].waits_for = nullptr;
    // Now and then another warp gets ahead.
    if (random.next() % 8 == 0) leave();
  }

  void meet_block(const char* operation, const Site& site) {
    wait_at(operation, site);
    warps[thread / LANES].ready &= ~(1u << (thread % LANES));
    if (++at_barrier_ < threads) {
      leave();
      return;
    }
    for (const Thread& other : state_)
      if (!same_place(other.site, site)) fail("divergent barrier: threads meet at different barriers");
    at_barrier_ = 0;
    ++epoch;
    for (Warp& warp : warps) warp.ready = ALL_LANES;
    leave();
  }

  // Ends the block here: nothing of it runs any more.
  [[noreturn]] void fail(const std::string& what) {
    failure = "block " + std::to_string(index) + ": " + what + "\n" + whereabouts();
    back_to_main();
  }

 private:
  std::vector<Thread> state_;
  const std::function<void()>* body_ = nullptr;
  unsigned at_barrier_ = 0;
  unsigned alive_ = 0;
  unsigned current_warp_ = 0;
  void* main_ = nullptr;
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
  char* stacks_ = nullptr;

  void wait_at(const char* operation, const Site& site) {
    state_[thread].waits_for = operation;
    state_[thread].site = site;
  }

  unsigned pick_lane(uint32_t lanes) {
    unsigned start = random.next() % LANES;
    uint32_t turned = (lanes >> start) | (lanes << ((LANES - start) % LANES));
    return (start + __builtin_ctz(turned)) % LANES;
  }

  // Gives way to a thread that can run: of this warp as long as it waits for its own lanes, else of a random one.
  void leave() {
    unsigned left = thread;
    Warp* warp = &warps[current_warp_];
    bool stay = warp->ready && warp->arrived;
    if (!stay) {
      unsigned start = random.next() % warps.size(), candidate = start;
      while (!warps[candidate].ready) {
        candidate = (candidate + 1) % warps.size();
        if (candidate == start) stuck();
      }
      current_warp_ = candidate;
      warp = &warps[candidate];
    }
    thread = current_warp_ * LANES + pick_lane(warp->ready);
    if (thread != left) switch_to(&state_[left].stack_pointer, thread, state_[left].done);
    state_[thread].waits_for = nullptr;
  }

  char* bottom_of(unsigned index) const { return stacks_ + index * PITCH + GUARD_BYTES; }

  // The sanitizer may keep local variables apart from the stack, to see them used after a return. For good: it frees
  // those of the fiber that leaves, so that until the switch nothing may touch one, nor may the switch write to one.
  void switch_to(void** leave, unsigned index, bool for_good = false) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, bottom_of(index), STACK_BYTES);
    fa2_switch(leave, state_[index].stack_pointer);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  }

  // For good, too.
  [[noreturn]] void back_to_main() {
    __sanitizer_start_switch_fiber(nullptr, main_bottom_, main_size_);
    fa2_switch(&state_[thread].stack_pointer, main_);
    __builtin_unreachable();
  }

  [[noreturn]] void stuck() {
    if (alive_) fail("stuck: threads wait for others that never come");
    back_to_main();
  }

  // Who is where, neighbours at one place in one line.
  std::string whereabouts() const {
    auto describe = [&](unsigned index) {
      const Thread& one = state_[index];
      if (one.done) return std::string("left the kernel");
      if (one.waits_for) return std::string(one.waits_for) + " at " + place(one.site);
      return std::string("at work");
    };
    std::string text;
    for (unsigned first = 0; first < threads;) {
      unsigned last = first;
      while (last + 1 < threads && describe(last + 1) == describe(first)) ++last;
      text += "  threads " + std::to_string(first) + " to " + std::to_string(last) + ": " + describe(first) + "\n";
      first = last + 1;
    }
    return text;
  }

  static void enter();

  void prepare_stacks() {
    if (!stacks_) {
      void* memory = mmap(nullptr, MAX_THREADS * PITCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) std::abort();
      stacks_ = static_cast<char*>(memory);
      for (unsigned i = 0; i < MAX_THREADS; ++i) mprotect(stacks_ + i * PITCH, GUARD_BYTES, PROT_NONE);
    }
    for (unsigned i = 0; i < threads; ++i) {
      char* top = bottom_of(i) + STACK_BYTES;
      __asan_unpoison_memory_region(bottom_of(i), STACK_BYTES);  // of frames that were abandoned
      // NaN in every format: a variable that is read before it is written shows in the result.
      std::memset(top - POISONED_STACK_BYTES, 0xff, POISONED_STACK_BYTES);
      // What fa2_switch pops: six registers, then the address of enter; 8 bytes keep the ABI's alignment at entry.
      void** frame = reinterpret_cast<void**>(top) - 8;
      std::memset(frame, 0, 8 * sizeof(void*));
      frame[6] = reinterpret_cast<void*>(&Block::enter);
      state_[i].stack_pointer = frame;
    }
  }
};

inline Block block;  // the one at work; blocks run one after the other

inline void Block::enter() {
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!block.main_bottom_) {  // the first thread of all is entered from outside
    block.main_bottom_ = bottom;
    block.main_size_ = size;
  }
  (*block.body_)();
  Thread& self = block.state_[block.thread];
  self.done = true;
  --block.alive_;
  block.warps[block.thread / LANES].ready &= ~(1u << (block.thread % LANES));
  block.leave();
  __builtin_unreachable();
}
}  // namespace fa2::emulator
