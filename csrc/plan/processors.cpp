#include "plan/processors.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace pnf {
namespace {

// A hierarchy of control groups as this process sees it: `mounted` of it lies at `point`.
struct Hierarchy {
  bool v2;
  std::string point, mounted;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

bool has(const std::vector<std::string>& list, const std::string& what) {
  return std::find(list.begin(), list.end(), what) != list.end();
}

// The mounts that may limit processors. A line of mountinfo: id, parent, device, root, mount point, options, optional
// fields, "-", type, source, options of the whole.
std::vector<Hierarchy> hierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 4) continue;
    if (dash[1] == "cgroup2") {
      found.push_back({true, fields[4], fields[3]});
    } else if (dash[1] == "cgroup" && has(split(dash[3], ','), "cpu")) {
      found.push_back({false, fields[4], fields[3]});
    }
  }
  return found;
}

// The process's path in a hierarchy. A line: number, controllers, path; version 2 has number 0 and no controllers.
std::string path_in(const Hierarchy& hierarchy, const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (hierarchy.v2 ? controllers.empty() : has(split(controllers, ','), "cpu")) return line.substr(second + 1);
  }
  return "/";
}

std::int64_t number(const std::string& text) {
  std::int64_t value = -1;
  std::istringstream(text) >> value;
  return value;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Of one control group; 0 without a quota.
int quota_of(const std::string& folder, bool v2) {
  std::int64_t quota = -1, period = -1;
  if (v2) {
    const std::vector<std::string> fields = split(first_line(folder + "/cpu.max"), ' ');
    if (fields.size() != 2 || fields[0] == "max") return 0;
    quota = number(fields[0]);
    period = number(fields[1]);
  } else {
    quota = number(first_line(folder + "/cpu.cfs_quota_us"));
    period = number(first_line(folder + "/cpu.cfs_period_us"));
  }
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<std::int64_t>(quota / period, 1, std::numeric_limits<int>::max()));
}

std::atomic<int> last_quota{0};

int smaller(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

}  // namespace

int affinity_processors() {
#if defined(__linux__)
  constexpr int kMost = 1 << 14;  // more than a kernel is built for
  unsigned long mask[kMost / (8 * sizeof(unsigned long))] = {};
  auto* const set = reinterpret_cast<cpu_set_t*>(mask);
  if (sched_getaffinity(0, sizeof(mask), set) == 0) return CPU_COUNT_S(sizeof(mask), set);
#endif
  return 0;
}

int quota_processors(const std::string& root) {
  int quota = 0;
  for (const Hierarchy& hierarchy : hierarchies(root)) {
    std::string path = path_in(hierarchy, root);
    // Where a container sees its own group as the root, its path may still be the host's.
    if (hierarchy.mounted != "/" && path.starts_with(hierarchy.mounted)) path.erase(0, hierarchy.mounted.size());
    if (path.find("..") != std::string::npos) path.clear();
    for (;;) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      quota = smaller(quota, quota_of(root + hierarchy.point + path, hierarchy.v2));
      if (path.empty()) break;
      path.erase(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return quota;
}

int usable_processors() {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kSecond = 1'000'000'000;
  static std::atomic<std::int64_t> read_at{0};
  const std::int64_t now = std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
  if (const std::int64_t before = read_at.load(std::memory_order_acquire); before == 0 || now - before > kSecond) {
    last_quota.store(quota_processors(), std::memory_order_relaxed);
    read_at.store(now, std::memory_order_release);
  }
  return known_processors();
}

int known_processors() {
  const int known = smaller(affinity_processors(), last_quota.load(std::memory_order_relaxed));
  return known != 0 ? known : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace pnf
