// The number of a process: one for all its threads, another one in every child, however it was made.
#include "plan/process.h"

#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "plan/per_process.h"

namespace pnf::test {
namespace {

struct Counter {
  int value = 0;
};

void one_number_in_all_threads() {
  const std::uint64_t number = process_number();
  CHECK(number != 0 && number == process_number(), "the number changes");
  std::vector<std::uint64_t> seen(8);
  std::vector<std::thread> threads;
  for (std::uint64_t& here : seen) threads.emplace_back([&here] { here = process_number(); });
  for (std::thread& thread : threads) thread.join();
  for (const std::uint64_t here : seen) CHECK(here == number, "a thread sees another number");
}

// A child of a child has neither's number.
void another_number_in_a_child() {
  const std::uint64_t mine = process_number();
  per_process<Counter>().value = 7;
  const pid_t child = fork();
  if (child == 0) {
    const std::uint64_t its = process_number();
    if (its == mine || its != process_number() || per_process<Counter>().value != 0) _exit(1);
    per_process<Counter>().value = 8;
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      const std::uint64_t last = process_number();
      _exit(last == mine || last == its || per_process<Counter>().value != 0);
    }
    int status = -1;
    _exit(waitpid(grandchild, &status, 0) != grandchild || status != 0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "a child takes its parent for itself: %d", status);
  CHECK(process_number() == mine && per_process<Counter>().value == 7, "a fork changes the parent");
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(one_number_in_all_threads, another_number_in_a_child);
}
