// The memory of an emulated block: shared memory with a shadow that knows who touched what, and the ranges of global
// memory that the host call has named.
//
// Shared memory is followed in granules of 4 bytes, the smallest access that the machine has. A granule knows its last
// writer, its readers since the last block barrier, and the copies on their way to it. Two accesses of one granule by
// different threads, one of them a write, are a race unless a barrier lies between them: a block barrier, or a warp
// barrier if both are of one warp. Races are thus found in any schedule, not only in one that shows a wrong result.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "fibers.hpp"

namespace fa2::emulator {
// A tensor in global memory: [begin, end) are the addresses of its first element and past its last.
struct Range {
  uintptr_t begin;
  uintptr_t end;
  const char* name;
};

constexpr int NOBODY = -1;
constexpr int SEVERAL = -2;

struct Granule {
  int writer = NOBODY;  // thread
  unsigned write_epoch = 0;
  unsigned write_warp_epoch = 0;
  int reader = NOBODY;       // thread, or SEVERAL of one warp
  int reader_warp = NOBODY;  // or SEVERAL
  unsigned read_epoch = 0;
  unsigned read_warp_epoch = 0;
  unsigned copies = 0;  // under way
  Site write_site;
  Site read_site;
  Site copy_site;
};

struct Copy {
  uint32_t to;
  unsigned bytes;
  const void* from;  // nullptr: zeros
  Site site;
};

class SharedMemory {
 public:
  static constexpr unsigned GRANULE = 4;

  void prepare(size_t bytes) {
    bytes_ = bytes;
    memory_.resize(bytes / 8 + 2);  // of u64: aligned for every access
    std::memset(memory_.data(), 0xff, memory_.size() * 8);
    shadow_.assign(bytes / GRANULE, {});
  }

  // Read or write [at, at + bytes), by `reader`.
  void* read(uint32_t at, unsigned bytes, unsigned reader, const Site& site) {
    check(at, bytes, "read", site);
    Warp& warp = block.warps[reader / LANES];
    for (unsigned i = at / GRANULE; i < (at + bytes) / GRANULE; ++i) {
      Granule& granule = shadow_[i];
      if (granule.copies)
        fail_at("reads", i, site, "a copy that no wait has finished, issued at " + place(granule.copy_site));
      if (granule.writer == NOBODY) fail_at("reads", i, site, "which nobody has written");
      if (!ordered(granule.writer, granule.write_epoch, granule.write_warp_epoch, reader))
        fail_at("reads", i, site,
                "a race with the write at " + place(granule.write_site) + " by thread " +
                    std::to_string(granule.writer) + ": no barrier between them");
      int own_warp = static_cast<int>(reader / LANES);
      if (granule.read_epoch != block.epoch || granule.reader == NOBODY) {
        granule.reader = static_cast<int>(reader);
        granule.reader_warp = own_warp;
      } else if (granule.reader_warp != own_warp) {
        granule.reader_warp = SEVERAL;
      } else if (granule.read_warp_epoch != warp.epoch) {
        granule.reader = static_cast<int>(reader);
      } else if (granule.reader != static_cast<int>(reader)) {
        granule.reader = SEVERAL;
      }
      granule.read_epoch = block.epoch;
      granule.read_warp_epoch = warp.epoch;
      granule.read_site = site;
    }
    return bytes_at(at);
  }

  void* write(uint32_t at, unsigned bytes, unsigned writer, const Site& site) {
    check(at, bytes, "write", site);
    for (unsigned i = at / GRANULE; i < (at + bytes) / GRANULE; ++i) {
      if (shadow_[i].copies)
        fail_at("writes", i, site, "the target of a copy still under way, issued at " + place(shadow_[i].copy_site));
      claim(i, writer, site);
    }
    return bytes_at(at);
  }

  // A copy may land at any time from here on.
  void announce(const Copy& copy, unsigned writer) {
    check(copy.to, copy.bytes, "copy", copy.site);
    for (unsigned i = copy.to / GRANULE; i < (copy.to + copy.bytes) / GRANULE; ++i) {
      if (shadow_[i].copies)
        fail_at("copies", i, copy.site, "the target of another copy, issued at " + place(shadow_[i].copy_site));
      claim(i, writer, copy.site);
      ++shadow_[i].copies;
      shadow_[i].copy_site = copy.site;
    }
    std::memset(bytes_at(copy.to), 0xff, copy.bytes);
  }

  void land(const Copy& copy, unsigned writer) {
    for (unsigned i = copy.to / GRANULE; i < (copy.to + copy.bytes) / GRANULE; ++i) {
      --shadow_[i].copies;
      claim(i, writer, copy.site);
    }
    if (copy.from)
      std::memcpy(bytes_at(copy.to), copy.from, copy.bytes);
    else
      std::memset(bytes_at(copy.to), 0, copy.bytes);
  }

 private:
  size_t bytes_ = 0;
  std::vector<uint64_t> memory_;
  std::vector<Granule> shadow_;

  char* bytes_at(uint32_t at) { return reinterpret_cast<char*>(memory_.data()) + at; }

  static bool ordered(int other, unsigned epoch, unsigned warp_epoch, unsigned self) {
    if (epoch != block.epoch || other == static_cast<int>(self)) return true;
    return other / LANES == self / LANES && warp_epoch != block.warps[self / LANES].epoch;
  }

  // Makes `writer` the last to have written granule i.
  void claim(unsigned i, unsigned writer, const Site& site) {
    Granule& granule = shadow_[i];
    Warp& warp = block.warps[writer / LANES];
    if (granule.writer != NOBODY && !ordered(granule.writer, granule.write_epoch, granule.write_warp_epoch, writer))
      fail_at("writes", i, site,
              "a race with the write at " + place(granule.write_site) + " by thread " + std::to_string(granule.writer) +
                  ": no barrier between them");
    if (granule.reader != NOBODY && granule.read_epoch == block.epoch) {
      bool other_warp = granule.reader_warp != static_cast<int>(writer / LANES);
      bool other_lane = granule.read_warp_epoch == warp.epoch && granule.reader != static_cast<int>(writer);
      if (other_warp || other_lane)
        fail_at("writes", i, site, "a race with the read at " + place(granule.read_site) + ": no barrier between them");
    }
    granule.writer = static_cast<int>(writer);
    granule.write_epoch = block.epoch;
    granule.write_warp_epoch = warp.epoch;
    granule.write_site = site;
  }

  void check(uint32_t at, unsigned bytes, const char* what, const Site& site) {
    if (at % bytes)
      block.fail(place(site) + ": misaligned " + what + " of " + std::to_string(bytes) + " bytes at " +
                 std::to_string(at) + " of shared memory, thread " + std::to_string(block.thread));
    if (static_cast<size_t>(at) + bytes > bytes_)
      block.fail(place(site) + ": " + what + " of " + std::to_string(bytes) + " bytes at " + std::to_string(at) +
                 " of shared memory, which has " + std::to_string(bytes_) + ", thread " + std::to_string(block.thread));
  }

  [[noreturn]] void fail_at(const char* does, unsigned granule, const Site& site, const std::string& why) {
    block.fail(place(site) + ": thread " + std::to_string(block.thread) + " " + does + " byte " +
               std::to_string(granule * GRANULE) + " of shared memory, " + why);
  }
};

inline SharedMemory shared;
inline const Range* ranges;
inline unsigned range_count;

// The tensor that begins at `address`; nullptr if the host call has named none.
inline const Range* range_of(uintptr_t address) {
  const Range* found = nullptr;
  for (const Range* range = ranges; range < ranges + range_count; ++range)
    // Views of one storage may begin together; the access is checked against the longest.
    if (range->begin == address && (!found || range->end > found->end)) found = range;
  return found;
}

inline void check_global(uintptr_t at, size_t bytes, const Range* range, const char* what, const Site& site) {
  if (at % bytes)
    block.fail(place(site) + ": misaligned " + what + " of " + std::to_string(bytes) +
               " bytes of global memory, thread " + std::to_string(block.thread));
  if (range && at >= range->begin && at + bytes <= range->end) return;
  if (!range)
    block.fail(place(site) + ": " + what + " through a pointer to no tensor, thread " + std::to_string(block.thread));
  char text[256];
  std::snprintf(text, sizeof text, "%s: %s of %zu bytes at byte %lld of %s, which has %llu, thread %u",
                place(site).c_str(), what, bytes, static_cast<long long>(at - range->begin), range->name,
                static_cast<unsigned long long>(range->end - range->begin), block.thread);
  block.fail(text);
}
}  // namespace fa2::emulator
