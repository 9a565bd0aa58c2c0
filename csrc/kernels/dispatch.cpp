#include "kernels/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernels/cpu_features.h"

namespace pnf {
namespace {

#define PNF_KERNELS(isa, available)                                                                           \
  KernelSet {                                                                                                 \
    #isa, available, isa::node_rows, isa::stem_rows, isa::global_depthwise, isa::linear, isa::margin_forward, \
        isa::margin_backward, isa::margin_exp, isa::cell_products, isa::channel_moments, isa::normalize_sum,  \
        isa::remaining_result, isa::gradient_moments, isa::cell_gradient, isa::probe_fma                      \
  }

std::atomic<const KernelSet*> chosen{nullptr};

const KernelSet& find(const std::string& name) {
  std::string usable;
  for (const KernelSet& set : compiled_kernels()) {
    if (!set.available) continue;
    if (name == set.name) return set;
    usable += usable.empty() ? set.name : std::string(", ") + set.name;
  }
  throw std::runtime_error("instruction set '" + name + "' is not available here; this build and CPU have: " + usable);
}

const KernelSet& from_environment() {
  const char* forced = std::getenv("PNF_FORCE_ISA");
  if (forced != nullptr && *forced != '\0') return find(forced);
  for (const KernelSet& set : compiled_kernels()) {
    if (set.available) return set;
  }
  throw std::runtime_error("no kernels are available");  // unreachable: scalar always is
}

}  // namespace

const std::vector<KernelSet>& compiled_kernels() {
  static const std::vector<KernelSet> sets = {
#if defined(__x86_64__)
      PNF_KERNELS(avx512, cpu_features().avx512),
      PNF_KERNELS(avx2, cpu_features().avx2_fma),
#elif defined(__aarch64__)
      PNF_KERNELS(neon, cpu_features().neon),
#endif
      PNF_KERNELS(scalar, true),
  };
  return sets;
}

const KernelSet& kernels() {
  const KernelSet* set = chosen.load(std::memory_order_acquire);
  if (set == nullptr) {
    set = &from_environment();
    chosen.store(set, std::memory_order_release);
  }
  return *set;
}

void force_isa(const std::string& name) {
  chosen.store(name.empty() ? nullptr : &find(name), std::memory_order_release);
}

}  // namespace pnf
