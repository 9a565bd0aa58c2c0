// Torch's own threads for the work of calls. After each of torch's parallel operators they spin on the processors for some
// milliseconds, and the pool's workers would wait behind them.
#include <torch/csrc/stable/c/shim.h>

#include <cstdint>

#include "plan/process.h"
#include "plan/thread_pool.h"

namespace pnf::ops {
namespace {

// OpenMP's runtime takes the threads of the parent for its own in a forked child, and waits for them forever.
int available() noexcept {
  std::uint32_t threads = 0;
  if (is_forked() || torch_get_num_threads(&threads) != 0) return 0;
  return static_cast<int>(threads);
}

// An error means that the body did not run, which the pool sees.
void loop(int count, void (*body)(std::int64_t, std::int64_t, void*), void* context) noexcept {
  torch_parallel_for(0, count, 1, body, context);
}

const OfferedThreads torch_threads = {available, loop};

[[maybe_unused]] const bool offered = (offer_threads(torch_threads), true);

}  // namespace
}  // namespace pnf::ops
