// What a call of plan/cell.h needs besides its states, kept from one call to the next.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "kernels/cell/cell.h"
#include "plan/lease.h"
#include "plan/workspace.h"

namespace pnf::cell_training {

// Sums of a run of images, or moments of one image.
class Doubles {
 public:
  double* zeros(std::size_t count) {
    values_.assign(count, 0.0);
    return values_.data();
  }
  double* data() { return values_.data(); }
  std::size_t bytes() const { return values_.capacity() * sizeof(double); }

 private:
  std::vector<double> values_;
};

// Memory that lies like states, for the length of a call: from the heap, as torch's tensors are, so that either can have what
// the other has freed.
class StateBuffer {
 public:
  // What it holds is lost where it grows; 0 bytes give the memory that is there.
  void* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      release();
      data_.reset(std::malloc(bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
      advise_huge_pages(data_.get(), bytes);
    }
    return data_.get();
  }
  void release() {
    data_.reset();
    bytes_ = 0;
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

template <typename State>
State* reserve(StateBuffer& memory, std::size_t count) {
  return static_cast<State*>(memory.reserve(count * sizeof(State)));
}

template <typename State>
struct ThreadMemory {
  Floats scratch;
  Floats filtered;  // of one image
  std::vector<const State*> inputs;
  std::vector<State*> grad_inputs;
  std::vector<const State*> before;
  std::vector<NormalizedTermOf<State>> terms;
  std::vector<const State*> residuals;
};

struct OperationMemory {
  Floats packed;
  StateBuffer products;  // [images][out_blocks][pixels][16]
  Floats normalization;  // Normalization's vectors
  Doubles moments;       // [images][2][out_blocks][16]
};

template <typename State>
struct TrainingMemory {
  std::vector<OperationMemory> operations;  // of one sum
  std::vector<ThreadMemory<State>> threads;
  std::vector<std::vector<Doubles>> sums;  // of the runs of images, of every operation of one sum
  std::vector<StateBuffer> grad_sums;

  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const OperationMemory& m : operations) {
      bytes += m.packed.bytes() + m.normalization.bytes() + m.moments.bytes();
    }
    for (const ThreadMemory<State>& m : threads) bytes += m.scratch.bytes() + m.filtered.bytes();
    for (const std::vector<Doubles>& run : sums) {
      for (const Doubles& m : run) bytes += m.bytes();
    }
    return bytes;
  }
  // The cells of a network take turns, each with a need of its own.
  bool outgrown() const { return false; }
  void release_states() {
    for (OperationMemory& m : operations) m.products.release();
    for (StateBuffer& m : grad_sums) m.release();
  }
};

// A call's memory. What lies like states goes back to the heap with the call.
template <typename State>
class CallMemory {
 public:
  CallMemory() = default;
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;
  ~CallMemory() { lease_->release_states(); }
  TrainingMemory<State>& operator*() const { return *lease_; }
  TrainingMemory<State>* operator->() const { return &*lease_; }

 private:
  Lease<TrainingMemory<State>> lease_;
};

}  // namespace pnf::cell_training
