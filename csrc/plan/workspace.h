// The memory of a running call, kept between calls so that a warm call allocates nothing.
#pragma once
#include <cstddef>
#include <utility>
#include <vector>

#include "plan/lease.h"
#include "plan/program.h"

namespace pnf {

// Floats on a cache line, growing only. Large ones are pages of their own, which go back to the system when they are
// freed.
class Floats {
 public:
  Floats() = default;
  Floats(Floats&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  Floats& operator=(Floats&& other) noexcept {
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Floats() { free(); }

  float* reserve(std::size_t count);
  std::size_t bytes() const { return memory_.bytes; }

 private:
  struct Memory {
    float* data;
    std::size_t bytes;
    bool mapped;
  };
  void free();

  Memory memory_ = {};
};

// Asks for pages of 2 MiB where whole ones fit in. A page of 4 KiB is walked through in no time, and a virtual machine
// looks each up twice. Advice only: nothing depends on it but speed.
void advise_huge_pages(void* data, std::size_t bytes);

struct Lane {
  Floats arena;    // the buffers of one image
  Floats scratch;  // the band, then what a kernel needs
};

class Workspace {
 public:
  Program program;
  // The words of a network that was resized, and what they became.
  std::pmr::vector<std::int32_t> original, resized;
  std::vector<Lane> lanes;  // one per thread
  Floats shared_arena;      // the buffers of an image that all threads work on

  // Memory for a call of the program on so many threads; arenas for as many of them, and the one that is shared.
  void prepare(int threads, int arenas, bool shared);

  std::size_t bytes() const;
  // After many calls in a row that needed less than half of what was large.
  bool outgrown() const { return small_calls_ >= kSmallCalls; }

 private:
  static constexpr int kSmallCalls = 64;
  int small_calls_ = 0;
};

using WorkspaceLease = Lease<Workspace>;

}  // namespace pnf
