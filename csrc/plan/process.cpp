#include "plan/process.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <new>
#include <sstream>
#include <string>

#include "plan/per_process.h"

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

// Linux sets this flag of a process at a fork and clears it at an exec: field 9 of stat, where the name, field 2, may hold
// anything between its parentheses.
bool read_is_forked() {
  constexpr unsigned long kForkedWithoutExec = 0x40;
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return true;
  std::istringstream fields(line.substr(name_end + 1));
  std::string state;
  long parent, group, session, terminal, foreground;
  unsigned long flags = 0;
  fields >> state >> parent >> group >> session >> terminal >> foreground >> flags;
  return !fields || (flags & kForkedWithoutExec) != 0;
}

struct Origin {
  bool forked = read_is_forked();
};

}  // namespace

bool is_forked() { return per_process<Origin>().forked; }

std::uint64_t process_number() {
  std::uint64_t seen = mark->load(std::memory_order_acquire);
  if (seen != 0) return seen;
  const std::uint64_t fresh = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return mark->compare_exchange_strong(seen, fresh, std::memory_order_acq_rel) ? fresh : seen;
}

}  // namespace pnf
