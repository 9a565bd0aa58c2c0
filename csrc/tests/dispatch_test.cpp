// Which kernels run: the best that the CPU has, or the ones that are named; never others in silence.
#include "kernels/dispatch.h"

#if defined(__linux__) && defined(__x86_64__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>

#include "check.h"
#include "kernels/cpu_features.h"
#include "plan/executor.h"
#include "program_builder.h"

namespace pnf::test {
namespace {

void set_environment(const char* name) {
  if (name == nullptr) {
    unsetenv("PNF_FORCE_ISA");
  } else {
    setenv("PNF_FORCE_ISA", name, 1);
  }
  force_isa("");  // the environment is read at the next use
}

std::vector<float> embed() {
  static const Encoded encoded = small_network(8, 12, 1, 20, 1);
  const std::vector<std::uint8_t> pixels(std::size_t{3} * 8 * 12, 100);
  std::vector<float> embedding(20);
  execute(encoded.words, encoded.weights, {1, nullptr, pixels.data()}, {}, embedding.data());
  return embedding;
}

// Every set that can be forced: those of half precision, and what runs floats under their names.
std::string fp32_set_of(const std::string& name) {
  if (name == "neon_bf16") return "neon";
  return name == "avx512_bf16" || name == "amx_bf16" ? "avx512" : name;
}

void the_list_is_sound() {
  std::set<std::string> names;
  for (const KernelSet& set : compiled_kernels()) CHECK(names.insert(set.name).second, "%s is listed twice", set.name);
  CHECK(compiled_kernels().back().name == std::string("scalar") && compiled_kernels().back().available,
        "scalar kernels always are available, and last");
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) names.insert(set.name);
#if defined(__x86_64__)
  CHECK((names == std::set<std::string>{"amx_bf16", "avx512_bf16", "avx512", "avx2", "scalar"}), "%zu instruction sets",
        names.size());
#elif defined(__aarch64__)
  CHECK((names == std::set<std::string>{"neon_bf16", "neon", "scalar"}), "%zu instruction sets", names.size());
#elif defined(__arm__)
  CHECK((names == std::set<std::string>{"neon", "scalar"}), "%zu instruction sets", names.size());
#endif
}

// The compiler's own view of the CPU, which does not share our code.
bool compiler_finds(const std::string& name) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name == "avx2") return avx2;
  if (name == "avx512") {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  if (name == "avx512_bf16") return __builtin_cpu_supports("avx512bf16");
  if (name == "amx_bf16") return __builtin_cpu_supports("amx-bf16") && !cpu_features().tiles_denied;
#elif defined(__aarch64__) && defined(__linux__)
  if (name == "neon_bf16") return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#endif
  return name == "scalar" || name == "neon";
}

void what_the_cpu_has_is_available() {
  for (const KernelSet& set : compiled_kernels()) {
    CHECK(set.available == compiler_finds(set.name), "%s is %savailable", set.name, set.available ? "" : "not ");
  }
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) {
    CHECK(set.available == compiler_finds(set.name), "%s is %savailable", set.name, set.available ? "" : "not ");
  }
}

#if defined(__linux__) && defined(__x86_64__)
// Nothing in this process may have asked for the tiles before.
void a_denied_request_leaves_the_next_set() {
  const pid_t child = fork();
  if (child == 0) {
    constexpr unsigned kRequestPermission = 0x1023;
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kRequestPermission, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program = {static_cast<unsigned short>(std::size(filter)), filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
      _exit(0);  // a system without filters
    }
    const CpuFeatures& found = cpu_features();
    const bool has_tiles = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16");
    _exit(found.amx_bf16 || found.tiles_denied != has_tiles);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "tiles that the system refuses are in use: %d", status);
}
#endif

int requests = 0;

// Whether a CPU of this signature, and of this vendor, is taken for one whose units are narrower than its registers.
bool older_than_zen5(CpuReport report, unsigned signature, unsigned vendor = 0) {
  report.leaf1_eax = signature;
  report.vendor_ebx = vendor;
  return !features_of(report, [] { return false; }).wide_units;
}

void features_follow_from_the_report() {
  const auto granted = [] { return ++requests > 0; };
  const auto refused = [] { return ++requests < 0; };
  CpuReport report;
  report.leaf1_ecx = 1u << 12 | 1u << 28;
  report.leaf7_ebx = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  report.leaf7_1_eax = 1u << 5;
  report.leaf7_edx = 1u << 22 | 1u << 24;
  report.tiles = 8;
  report.tile_rows = 16;
  report.tile_bytes = 64;
  report.saved_registers = 0x600e7;
  const CpuFeatures all = features_of(report, granted);
  CHECK(all.avx2_fma && all.avx512 && all.avx512_bf16 && all.amx_bf16 && !all.tiles_denied && requests == 1,
        "a CPU with everything lacks something; %d requests", requests);
  const CpuFeatures without = features_of(report, refused);
  CHECK(without.avx512_bf16 && !without.amx_bf16 && without.tiles_denied && requests == 2, "a refusal is no refusal");

  CpuReport unsaved = report;
  unsaved.saved_registers = 0xe7;
  CHECK(!features_of(unsaved, granted).amx_bf16 && features_of(unsaved, granted).tiles_denied && requests == 2,
        "tiles that are not saved are in use");
  CpuReport small = report;
  small.tile_rows = 8;
  CpuReport other = report;
  other.leaf7_edx = 1u << 24 | 1u << 25;  // integers only
  for (const CpuReport& none : {small, other}) {
    const CpuFeatures found = features_of(none, granted);
    CHECK(found.avx512_bf16 && !found.amx_bf16 && !found.tiles_denied && requests == 2, "tiles of another kind");
  }
  CpuReport intels = report;
  intels.vendor_ebx = 0x756e6547;
  CHECK(!all.slow_pairs && features_of(intels, refused).slow_pairs && requests == 3,
        "whose pairs are slow is mistaken");
  requests = 2;
  CHECK(all.wide_units && !older_than_zen5(report, 0x00a10f11) && older_than_zen5(report, 0x00a10f11, 0x68747541) &&
            !older_than_zen5(report, 0x00b00f21, 0x68747541),
        "the width of the units is mistaken");
  CpuReport older = report;
  older.saved_registers = 0x7;
  const CpuFeatures found = features_of(older, granted);
  CHECK(found.avx2_fma && !found.avx512 && !found.avx512_bf16 && !found.amx_bf16 && requests == 2,
        "registers that are not saved are in use");

  CpuReport hashing = older;
  hashing.leaf1_ecx |= 1u << 9 | 1u << 19;
  CHECK(!features_of(hashing, refused).sha && !all.sha, "SHA-256 has instructions that are not there");
  hashing.leaf7_ebx |= 1u << 29;
  CHECK(features_of(hashing, refused).sha, "instructions of SHA-256 are not found");
}

void the_best_is_the_default() {
  set_environment(nullptr);
  const KernelSet* best = nullptr;
  for (const KernelSet& set : compiled_kernels()) {
    if (best == nullptr && set.available) best = &set;
  }
  CHECK(&kernels() == best, "%s runs", kernels().name);
  const Bf16KernelSet& half = bf16_kernels();
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) {
    if (&set == &half) break;
    CHECK(!set.available || (set.name == std::string("avx512_bf16") && cpu_features().slow_pairs), "%s, not %s",
          half.name, set.name);
  }
  CHECK(half.available && half.by_default, "%s runs half precision", half.name);
  set_environment("");
  CHECK(&kernels() == best, "an empty PNF_FORCE_ISA is no choice, but %s runs", kernels().name);
}

void a_forced_name_is_what_runs() {
  std::set<std::string> results;
  for (const KernelSet& set : compiled_kernels()) {
    if (!set.available) {
      set_environment(set.name);
      CHECK_THROWS(std::runtime_error, kernels(), "%s runs on a CPU that lacks it", set.name);
      continue;
    }
    const auto check = [&](const char* how) {
      CHECK(&kernels() == &set, "%s forced by %s, %s runs", set.name, how, kernels().name);
      for (const float value : embed()) CHECK(std::isfinite(value), "%s gives %g", set.name, value);
      float sink[kBlock];
      const double products = kernels().probe_fma(1000, sink);
      results.insert(std::to_string(products));
    };
    set_environment(set.name);
    check("the environment");
    set_environment(nullptr);
    force_isa(set.name);
    check("a call");
  }
  // Vectors of different lengths do different numbers of products in as many iterations: proof of which code ran.
  std::size_t available = 0;
  for (const KernelSet& set : compiled_kernels()) available += set.available ? 1 : 0;
  CHECK(results.size() == available, "%zu instruction sets behave as %zu", available, results.size());
}

void a_name_chooses_both_precisions() {
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) {
    if (!set.available) {
      CHECK_THROWS(std::runtime_error, force_isa(set.name), "%s can be forced on a CPU that lacks it", set.name);
      continue;
    }
    force_isa(set.name);
    CHECK(&bf16_kernels() == &set, "%s forced, %s runs half precision", set.name, bf16_kernels().name);
    CHECK(kernels().name == fp32_set_of(set.name), "%s forced, %s runs floats", set.name, kernels().name);
  }
  set_environment(nullptr);
}

void an_unknown_name_is_an_error() {
  for (const char* name : {"sse9", "AVX2", "avx", "neon2", " "}) {
    set_environment(name);
    for (int use = 0; use < 2; ++use) {
      std::string message;
      try {
        embed();
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      CHECK(message.find(std::string("'") + name + "'") != std::string::npos, "'%s' gives: %s", name, message.c_str());
      for (const KernelSet& set : compiled_kernels()) {
        const bool listed = message.find(set.name, message.find("have:")) != std::string::npos;
        CHECK(listed == set.available, "'%s': %s is %slisted in: %s", name, set.name, listed ? "" : "not ",
              message.c_str());
      }
    }
    set_environment(nullptr);
    const KernelSet* before = &kernels();
    CHECK_THROWS(std::runtime_error, force_isa(name), "force_isa takes '%s'", name);
    CHECK(&kernels() == before, "a refused name changes the kernels");
  }
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
#if defined(__linux__) && defined(__x86_64__)
  a_denied_request_leaves_the_next_set();
#endif
  features_follow_from_the_report();
  the_list_is_sound();
  what_the_cpu_has_is_available();
  the_best_is_the_default();
  a_forced_name_is_what_runs();
  a_name_chooses_both_precisions();
  an_unknown_name_is_an_error();
  return check::result();
}
