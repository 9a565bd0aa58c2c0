#pragma once
#include <cstdint>

namespace pnf {

// A number of this process, other than that of every process it descends from by fork(): of the process, not of its
// place in a table, where a child in another PID namespace, or born after the numbers began again, has its parent's.
std::uint64_t process_number();

// Whether this process was made by fork() and runs its parent's program, so that libraries may hold what they set up
// there. Also where the system does not say.
bool is_forked();

}  // namespace pnf
