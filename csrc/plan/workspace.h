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
