// The memory of a running call, kept between calls so that a warm call allocates nothing.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "plan/lease.h"
#include "plan/program.h"

namespace pnf {

// Floats on a cache line, growing only.
class Floats {
 public:
  float* reserve(std::size_t count);

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

// Asks for pages of 2 MiB where whole ones fit in. A page of 4 KiB is walked through in no time, and a virtual machine
// looks each up twice. Advice only: nothing depends on it but speed.
void advise_huge_pages(void* data, std::size_t bytes);

struct Lane {
  Floats arena;    // the buffers of one image
  Floats scratch;  // the band, then what a kernel needs
};

struct Workspace {
  Program program;
  std::vector<Lane> lanes;  // one per thread
};

using WorkspaceLease = Lease<Workspace>;

}  // namespace pnf
