#pragma once
#include <atomic>
#include <cstdint>

#include "plan/process.h"

namespace pnf {

// The T of this process. A forked child inherits the memory of its parent's T, but not its threads, and nobody who
// would release a mutex that was held at that moment; so it starts with a T of its own. Never destroyed: threads may
// outlive static destructors.
template <typename T>
T& per_process() {
  struct Instance {
    std::uint64_t process;
    T value;
  };
  static std::atomic<Instance*> current{nullptr};
  const std::uint64_t process = process_number();
  Instance* seen = current.load(std::memory_order_acquire);
  while (seen == nullptr || seen->process != process) {
    auto* fresh = new Instance{process, {}};
    if (current.compare_exchange_strong(seen, fresh, std::memory_order_acq_rel)) return fresh->value;
    delete fresh;
  }
  return seen->value;
}

}  // namespace pnf
