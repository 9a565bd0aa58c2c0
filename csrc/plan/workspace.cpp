#include "plan/workspace.h"

#include <cstdlib>
#include <mutex>
#include <new>

#include "plan/per_process.h"

namespace pnf {
namespace {

struct Shelf {
  std::mutex mutex;
  std::vector<std::unique_ptr<Workspace>> free;
};

}  // namespace

void Floats::Free::operator()(float* p) const { std::free(p); }

float* Floats::reserve(std::size_t count) {
  if (count > size_) {
    constexpr std::size_t kLine = 64;
    const std::size_t bytes = (count * sizeof(float) + kLine - 1) / kLine * kLine;
    data_.reset();
    size_ = 0;
    data_.reset(static_cast<float*>(std::aligned_alloc(kLine, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    size_ = count;
  }
  return data_.get();
}

WorkspaceLease::WorkspaceLease() {
  Shelf& s = per_process<Shelf>();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (s.free.empty()) {
    workspace_ = std::make_unique<Workspace>();
  } else {
    workspace_ = std::move(s.free.back());
    s.free.pop_back();
  }
}

WorkspaceLease::~WorkspaceLease() {
  Shelf& s = per_process<Shelf>();
  const std::lock_guard<std::mutex> lock(s.mutex);
  try {
    s.free.push_back(std::move(workspace_));
  } catch (const std::bad_alloc&) {
    workspace_.reset();
  }
}

}  // namespace pnf
