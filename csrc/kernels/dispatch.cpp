#include "kernels/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "kernels/cpu_features.h"

namespace pnf {
namespace {

// The overload of each kernel comes with the member's type.
#ifdef PNF_INFERENCE_ONLY
#define PNF_CELL_KERNELS(isa, pairs) \
  {                                  \
  }
#define PNF_MARGIN_KERNELS(isa, pairs) \
  {                                    \
  }
#define PNF_ALONE(kernel) nullptr
#else
#define PNF_CELL_KERNELS(isa, pairs) \
  {pairs,                            \
   isa::cell_products,               \
   isa::channel_moments,             \
   isa::normalize_sum,               \
   isa::remaining_result,            \
   isa::gradient_moments,            \
   isa::cell_gradient}
#define PNF_MARGIN_KERNELS(isa, pairs) {pairs, isa::margin_forward, isa::margin_backward}
#define PNF_ALONE(kernel) kernel
#endif

#define PNF_KERNELS(isa, available)                                                                             \
  KernelSet {                                                                                                   \
    {isa::node_rows, isa::stem_rows, isa::global_depthwise, isa::linear}, PNF_CELL_KERNELS(isa, false),         \
        PNF_MARGIN_KERNELS(isa, false), #isa, available, PNF_ALONE(isa::margin_exp), PNF_ALONE(isa::probe_fma), \
        PNF_ALONE(isa::probe_read)                                                                              \
  }

// `set` names the kernels of products, `isa` those of the other steps, `training` those of cells and of the loss, in pairs
// or not: the loss is in floats where a processor has no products of pairs, as taking pairs apart costs more than it saves.
#define PNF_BF16_KERNELS(set, training, pairs, isa, available, by_default)                                   \
  Bf16KernelSet {                                                                                            \
    {set::node_rows, set::stem_rows, isa::global_depthwise, isa::linear}, PNF_CELL_KERNELS(training, pairs), \
        PNF_MARGIN_KERNELS(training, pairs), #set, available, by_default, PNF_ALONE(set::probe_fma)          \
  }

std::atomic<const ChosenKernels*> chosen{nullptr};

// One for each name that can be forced.
const std::vector<ChosenKernels>& choices() {
  static const std::vector<ChosenKernels> all = [] {
    std::vector<ChosenKernels> found;
    // Sets of half precision that have no floats of their own stand right above the set whose floats they take.
    const auto& fp32 = compiled_kernels();
    auto below = fp32.rbegin();
    const auto& bf16 = compiled_bf16_kernels();
    for (auto set = bf16.rbegin(); set != bf16.rend(); ++set) {
      if (below + 1 != fp32.rend() && std::string_view((below + 1)->name) == set->name) ++below;
      found.insert(found.begin(), {&*below, &*set});
    }
    return found;
  }();
  return all;
}

const ChosenKernels& current() {
  const ChosenKernels* choice = chosen.load(std::memory_order_acquire);
  if (choice == nullptr) {
    const char* forced = std::getenv("PNF_FORCE_ISA");
    choice = &kernels_of(forced == nullptr ? "" : forced);
    chosen.store(choice, std::memory_order_release);
  }
  return *choice;
}

}  // namespace

const std::vector<KernelSet>& compiled_kernels() {
  static const std::vector<KernelSet> sets = {
#if defined(__x86_64__)
      PNF_KERNELS(avx512, cpu_features().avx512),
      PNF_KERNELS(avx2, cpu_features().avx2_fma),
#elif defined(__aarch64__) || defined(__arm__)
      PNF_KERNELS(neon, cpu_features().neon),
#elif defined(__wasm_relaxed_simd__)
      PNF_KERNELS(wasm128_relaxed, true),
#elif defined(__wasm_simd128__)
      PNF_KERNELS(wasm128, true),
#endif
      PNF_KERNELS(scalar, true),
  };
  return sets;
}

const std::vector<Bf16KernelSet>& compiled_bf16_kernels() {
  static const std::vector<Bf16KernelSet> sets = {
#if defined(__x86_64__)
      // Training is without tiles, and the processors that have them are slow with pairs.
      PNF_BF16_KERNELS(amx_bf16, avx512, false, avx512, cpu_features().amx_bf16, true),
      PNF_BF16_KERNELS(avx512_bf16, avx512_bf16, true, avx512, cpu_features().avx512_bf16, !cpu_features().slow_pairs),
      PNF_BF16_KERNELS(avx512, avx512, false, avx512, cpu_features().avx512, true),
      PNF_BF16_KERNELS(avx2, avx2, false, avx2, cpu_features().avx2_fma, true),
#elif defined(__aarch64__) || defined(__arm__)
#if defined(__aarch64__)
      PNF_BF16_KERNELS(neon_bf16, neon, false, neon, cpu_features().neon_bf16, true),
#endif
      PNF_BF16_KERNELS(neon, neon, false, neon, cpu_features().neon, true),
#elif defined(__wasm_relaxed_simd__)
      PNF_BF16_KERNELS(wasm128_relaxed, wasm128_relaxed, false, wasm128_relaxed, true, true),
#elif defined(__wasm_simd128__)
      PNF_BF16_KERNELS(wasm128, wasm128, false, wasm128, true, true),
#endif
      PNF_BF16_KERNELS(scalar, scalar, false, scalar, true, true),
  };
  return sets;
}

const ChosenKernels& kernels_of(std::string_view isa) {
  std::string usable;
  for (const ChosenKernels& choice : choices()) {
    if (!choice.bf16->available) continue;
    if (isa.empty() ? choice.bf16->by_default : isa == choice.bf16->name) return choice;
    usable += usable.empty() ? choice.bf16->name : std::string(", ") + choice.bf16->name;
  }
  throw std::runtime_error("instruction set '" + std::string(isa) +
                           "' is not available here; this build and CPU have: " + usable);
}

const KernelSet& kernels() { return *current().fp32; }

const Bf16KernelSet& bf16_kernels() { return *current().bf16; }

void force_isa(const std::string& name) {
  chosen.store(name.empty() ? nullptr : &kernels_of(name), std::memory_order_release);
}

}  // namespace pnf
