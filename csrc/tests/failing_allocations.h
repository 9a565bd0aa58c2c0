// Memory that runs out when a test wants it to. CMake's pnf_fail_allocations() puts this into a program.
#pragma once

namespace pnf::test {

// Allocations of this program so far, those that failed included.
long allocations();

enum class Failing {
  kOne,  // one allocation alone
  kAll,  // that one and all later ones
};

// The n-th allocation from now on fails; the next one is the first.
void fail_allocation(long n, Failing failing);

// No allocation fails from now on. Returns whether one has failed.
bool allow_allocations();

}  // namespace pnf::test
