// Memory that outlives a call: borrowed for the life of a Lease, then kept for the next call of this process.
#pragma once
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "plan/per_process.h"

namespace pnf {

// Concurrent callers get different objects, made when none is free.
template <typename T>
class Lease {
 public:
  Lease() {
    Shelf& shelf = per_process<Shelf>();
    const std::lock_guard<std::mutex> lock(shelf.mutex);
    if (shelf.free.empty()) {
      object_ = std::make_unique<T>();
    } else {
      object_ = std::move(shelf.free.back());
      shelf.free.pop_back();
    }
  }
  ~Lease() {
    Shelf& shelf = per_process<Shelf>();
    const std::lock_guard<std::mutex> lock(shelf.mutex);
    try {
      shelf.free.push_back(std::move(object_));
    } catch (const std::bad_alloc&) {
      object_.reset();
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  T& operator*() const { return *object_; }
  T* operator->() const { return object_.get(); }

 private:
  struct Shelf {
    std::mutex mutex;
    std::vector<std::unique_ptr<T>> free;
  };
  std::unique_ptr<T> object_;
};

}  // namespace pnf
