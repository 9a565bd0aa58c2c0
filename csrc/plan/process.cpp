#include "plan/process.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace pnf {
namespace {

using Mark = std::atomic<std::uint64_t>;
static_assert(Mark::is_always_lock_free);

Mark* mark = nullptr;

// Memory that a fork zeroes: Linux wipes the page, however the child was made; where it cannot (before 4.14, or emulated)
// the handler of fork() does.
Mark* make_mark() {
  static Mark fallback{0};
  Mark* found = &fallback;
#if defined(MADV_WIPEONFORK)
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* const memory = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory != MAP_FAILED && madvise(memory, page, MADV_WIPEONFORK) == 0) found = new (memory) Mark(0);
#endif
  pthread_atfork(nullptr, nullptr, [] { mark->store(0, std::memory_order_relaxed); });
  return found;
}

// When the library is loaded, so that no thread is inside it when another forks.
[[maybe_unused]] const bool made = (mark = make_mark()) != nullptr;

// In memory that a fork copies, so that it counts on from the parent's.
std::atomic<std::uint64_t> last{0};

}  // namespace

std::uint64_t process_number() {
  std::uint64_t seen = mark->load(std::memory_order_acquire);
  if (seen != 0) return seen;
  const std::uint64_t fresh = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return mark->compare_exchange_strong(seen, fresh, std::memory_order_acq_rel) ? fresh : seen;
}

}  // namespace pnf
