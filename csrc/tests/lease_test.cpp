// Memory that outlives a call: kept and given again, up to a limit, by many callers, and where there is none.
#include "plan/lease.h"

#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "check.h"
#include "failing_allocations.h"

namespace pnf::test {
namespace {

std::atomic<int> living{0};

struct Buffer {
  Buffer() : content(std::make_unique<char[]>(kSmall)) { ++living; }
  ~Buffer() { --living; }
  std::size_t bytes() const { return size; }
  bool outgrown() const { return size == 0; }

  static constexpr std::size_t kSmall = 100;
  std::unique_ptr<char[]> content;
  std::size_t size = kSmall;
};
using BufferLease = Lease<Buffer>;

// Every allocation fails once: of the shelf, of what is borrowed, of the place where it waits.
void survives_failing_allocations() {
  bool failed = true;
  int refused = 0;
  for (long n = 1; failed && n <= 50; ++n) {
    clear_shelves();
    bool threw = false;
    fail_allocation(n, Failing::kOne);
    try {
      const BufferLease lease, other;
      lease->content[0] = 1;
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    failed = allow_allocations();
    refused += threw;
    const int waiting = living;
    CHECK(waiting <= 2 && (failed || waiting == 2), "%d objects wait after allocation %ld has failed", waiting, n);
    CHECK(clear_shelves() == waiting * Buffer::kSmall, "bytes are not those of %d objects", waiting);
    CHECK(living == 0, "%d objects live on", living.load());
  }
  CHECK(!failed, "allocations do not end");
  CHECK(refused >= 3, "%d allocations were refused", refused);
}

void what_is_returned_is_given_again() {
  clear_shelves();
  const Buffer *first, *second;
  {
    const BufferLease one, other;
    first = &*one;
    second = &*other;
    CHECK(first != second, "two callers share an object");
  }
  const BufferLease again, also;
  CHECK(&*again == first && &*also == second, "objects are made where some wait; the one returned last comes first");
}

void no_more_is_kept_than_the_limit() {
  clear_shelves();
  {
    const BufferLease small, large, outgrown;
    large->size = kKeptBytes + 1;
    outgrown->size = 0;
  }
  // The smallest went back last, when the large one waited.
  CHECK(living == 1, "%d objects are kept", living.load());
  CHECK(clear_shelves() == Buffer::kSmall, "the object returned last is not the one that is kept");
}

void callers_get_objects_of_their_own() {
  clear_shelves();
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 1; caller <= 4; ++caller) {
    callers.emplace_back([caller, &wrong] {
      for (int call = 0; call < 2000; ++call) {
        const BufferLease lease;
        lease->content[0] = static_cast<char>(caller);
        std::this_thread::yield();
        wrong += lease->content[0] != caller;
        if (call % 500 == 0) clear_shelves();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "callers find what others have written, %d times", wrong.load());
  clear_shelves();
  CHECK(living == 0, "%d objects live on", living.load());
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(survives_failing_allocations, what_is_returned_is_given_again, no_more_is_kept_than_the_limit,
                    callers_get_objects_of_their_own);
}
