// How many processors this process may use, which no call's threads go beyond.
#pragma once
#include <string>

namespace pnf {

// In the calling thread's affinity mask; 0 where the system does not say.
int affinity_processors();

// Whole processors that the quotas of the process's control group and of those above it allow, at least 1; 0 without a
// quota. Reads cgroup v2's cpu.max and v1's cpu.cfs_quota_us, under `root` in tests.
int quota_processors(const std::string& root = "");

// The smaller of both, at least 1. Reads the quota again after a second.
int usable_processors();

// The same by the quota as it was read last, without allocating; without one where it was not read yet.
int known_processors();

}  // namespace pnf
