// Affinity and quotas, those of control groups from files as Linux shows them to processes in and outside of containers.
#include "plan/processors.h"

#if defined(__linux__)
#include <sched.h>
#endif
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace pnf::test {
namespace {

using Files = std::vector<std::pair<std::string, std::string>>;

int quota_of(const Files& files) {
  char folder[] = "/tmp/pnf_processors_XXXXXX";
  if (mkdtemp(folder) == nullptr) return -1;
  for (const auto& [path, text] : files) {
    const std::filesystem::path place = folder + path;
    std::filesystem::create_directories(place.parent_path());
    std::ofstream(place) << text;
  }
  const int quota = quota_processors(folder);
  std::filesystem::remove_all(folder);
  return quota;
}

constexpr const char* kCgroup = "/proc/self/cgroup";
constexpr const char* kMounts = "/proc/self/mountinfo";
constexpr const char* kUnified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

void reads_version_2() {
  const auto quota = [](const char* limit) {
    return quota_of({{kCgroup, "0::/\n"}, {kMounts, kUnified}, {"/sys/fs/cgroup/cpu.max", limit}});
  };
  CHECK(quota("max 100000\n") == 0, "no quota is one");
  CHECK(quota("400000 100000\n") == 4, "four processors are %d", quota("400000 100000\n"));
  CHECK(quota("150000 100000\n") == 1, "one and a half are %d", quota("150000 100000\n"));
  CHECK(quota("20000 100000\n") == 1, "a fifth is %d", quota("20000 100000\n"));
  CHECK(quota("250000 50000\n") == 5, "another period gives %d", quota("250000 50000\n"));
  for (const char* damaged : {"", "\n", "max", "-1 100000\n", "400000\n", "400000 0\n", "a b\n"}) {
    CHECK(quota(damaged) == 0, "'%s' is a quota of %d", damaged, quota(damaged));
  }
}

// The tightest of a group and those above it.
void looks_at_the_groups_above() {
  const Files files = {{kCgroup, "0::/user.slice/job/step\n"},
                       {kMounts, kUnified},
                       {"/sys/fs/cgroup/user.slice/job/step/cpu.max", "max 100000\n"},
                       {"/sys/fs/cgroup/user.slice/job/cpu.max", "300000 100000\n"},
                       {"/sys/fs/cgroup/user.slice/cpu.max", "800000 100000\n"}};
  CHECK(quota_of(files) == 3, "the groups above allow %d", quota_of(files));
}

constexpr const char* kVersion1 =
    "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n";

void reads_version_1() {
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/job";
  const auto quota = [&](const char* limit) {
    return quota_of({{kCgroup, "5:memory:/other\n4:cpu,cpuacct:/job\n0::/\n"},
                     {kMounts, kVersion1},
                     {group + "/cpu.cfs_quota_us", limit},
                     {group + "/cpu.cfs_period_us", "100000\n"}});
  };
  CHECK(quota("-1\n") == 0, "no quota is one");
  CHECK(quota("200000\n") == 2, "two processors are %d", quota("200000\n"));
}

// The path is the host's, and what is mounted is the container's own group.
void reads_a_container_of_version_1() {
  const Files files = {{kCgroup, "4:cpu,cpuacct:/docker/0123\n"},
                       {kMounts, "32 30 0:28 /docker/0123 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"},
                       {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "600000\n"},
                       {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}};
  CHECK(quota_of(files) == 6, "a container has %d", quota_of(files));
}

// A namespace of control groups shows paths above its own as "..".
void reads_a_namespace_entered_from_outside() {
  const Files files = {{kCgroup, "0::/../sibling\n"},
                       {kMounts, "29 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
                       {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}};
  CHECK(quota_of(files) == 2, "a namespace has %d", quota_of(files));
}

void nothing_to_read_is_no_quota() {
  CHECK(quota_of({}) == 0, "an empty system has a quota");
  CHECK(quota_of({{kCgroup, "0::/\n"}, {kMounts, "1 2 3 4\n- - - -\n"}}) == 0, "a damaged list of mounts has a quota");
}

void the_affinity_mask_counts() {
#if defined(__linux__)
  cpu_set_t before;
  if (sched_getaffinity(0, sizeof(before), &before) != 0) return;
  CHECK(affinity_processors() == CPU_COUNT(&before), "%d processors of %d", affinity_processors(), CPU_COUNT(&before));
  CHECK(usable_processors() >= 1 && usable_processors() <= CPU_COUNT(&before), "%d are usable", usable_processors());
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
  }
  if (sched_setaffinity(0, sizeof(one), &one) != 0) return;
  CHECK(affinity_processors() == 1 && usable_processors() == 1, "of one processor, %d are usable", usable_processors());
  sched_setaffinity(0, sizeof(before), &before);
#else
  CHECK(usable_processors() >= 1, "no processor is usable");
#endif
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(reads_version_2, looks_at_the_groups_above, reads_version_1, reads_a_container_of_version_1,
                    reads_a_namespace_entered_from_outside, nothing_to_read_is_no_quota, the_affinity_mask_counts);
}
