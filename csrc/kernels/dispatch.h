// The kernels of the instruction set in use. Chosen once: the best that the CPU has, or the one that
// PNF_FORCE_ISA names; a name that is unknown or that this CPU lacks is an error, never a fallback.
//
// Some sets have kernels of their own for half precision only; floats take those of the set below. Where PNF_INFERENCE_ONLY
// is defined for dispatch.cpp, the kernels of training and of measurements are null, and nothing refers to them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cell/cell.h"
#include "kernels/margin_cross_entropy/margin_cross_entropy.h"
#include "kernels/node/node.h"
#include "kernels/probe/probe.h"
#include "kernels/stem/stem.h"
#include "kernels/tail/tail.h"

namespace pnf {

// The steps of a program.
template <typename State>
struct StepKernels {
  void (*node_rows)(const NodeOf<State>&, int, int, float*);
  void (*stem_rows)(const StemOf<State>&, const Image&, int, int, float*);
  void (*global_depthwise)(const GlobalDepthwiseOf<State>&, int, int);
  void (*linear)(const LinearOf<State>&, int, int);
};

// Training a cell.
template <typename State>
struct CellKernels {
  bool pairs;  // how separable operations want their weights
  void (*cell_products)(const CellTerm&, const State* const*, int, float*, State*, float*);
  void (*channel_moments)(const ImageViewOf<State>&, int, int, double*, double*);
  void (*normalize_sum)(const NormalizedSumOf<State>&);
  void (*remaining_result)(const NormalizedSumOf<State>&, const State*);
  void (*gradient_moments)(const CellTerm&, const OutputGradientOf<State>&, const ImageViewOf<State>&, const float*,
                           double*, double*);
  void (*cell_gradient)(const CellTerm&, const CellGradientOf<State>&, float*);
};

struct MarginKernels {
  bool margin_pairs;  // whether products take pairs of bfloat16
  long (*margin_forward)(const MarginHead&, const MarginForward&, std::ptrdiff_t, std::ptrdiff_t, float*);
  long (*margin_backward)(const MarginHead&, const MarginBackward&, std::ptrdiff_t, std::ptrdiff_t, float*);
};

struct KernelSet : StepKernels<float>, CellKernels<float>, MarginKernels {
  const char* name;
  bool available;
  void (*margin_exp)(const float*, int, float*);
  double (*probe_fma)(long, float*);
  void (*probe_read)(const float*, long, float*);
};

struct Bf16KernelSet : StepKernels<Bf16>, CellKernels<Bf16>, MarginKernels {
  const char* name;
  bool available;
  bool by_default;  // whether it is chosen where nobody names a set
  double (*probe_fma)(long, float*);
};

// Those compiled into this library, best first.
const std::vector<KernelSet>& compiled_kernels();
const std::vector<Bf16KernelSet>& compiled_bf16_kernels();

struct ChosenKernels {
  const KernelSet* fp32;
  const Bf16KernelSet* bf16;  // whose name is that of both
};

// Of an instruction set by its name, or the first that is chosen by default where that is empty. Throws std::runtime_error when it is
// unknown or this CPU lacks it.
const ChosenKernels& kernels_of(std::string_view isa);

// Throws std::runtime_error when PNF_FORCE_ISA cannot be honoured.
const KernelSet& kernels();
const Bf16KernelSet& bf16_kernels();

template <typename State>
const CellKernels<State>& cell_kernels() {
  if constexpr (sizeof(State) == sizeof(float)) {
    return kernels();
  } else {
    return bf16_kernels();
  }
}

// As PNF_FORCE_ISA, for the calls that start from now on; "" returns to the environment's choice.
void force_isa(const std::string& name);

}  // namespace pnf
