// Every operator schema of the project, and nothing else.
#include <torch/csrc/stable/library.h>

#include "ops/align_faces.h"
#include "ops/cell.h"
#include "ops/detect_faces.h"
#include "ops/find_faces.h"
#include "ops/margin_cross_entropy.h"
#include "ops/run_plan.h"
#include "ops/trim_memory.h"

STABLE_TORCH_LIBRARY(pocketnet_fast, m) {
  m.def("run_plan(Tensor input, Tensor program, Tensor weights, int embedding, int threads, bool flip) -> Tensor");
  m.def(
      "detect_faces(Tensor image, Tensor program, Tensor weights, float least_score, float most_overlap, "
      "int most_candidates, bool blend, int threads) -> Tensor");
  m.def(
      "find_faces(Tensor photo, Tensor program, Tensor weights, float least_score, bool upright, int threads) -> "
      "Tensor");
  m.def("align_faces(Tensor photo, Tensor landmarks, int side) -> Tensor");
  m.def("trim_memory() -> int");
  m.def(
      "margin_cross_entropy(Tensor embedding, Tensor kernel, Tensor label, float scale, bool bf16_products=False) -> "
      "(Tensor, Tensor)");
  m.def(
      "margin_cross_entropy_backward(Tensor embedding, Tensor kernel, Tensor label, float scale, Tensor others, "
      "Tensor grad_others, Tensor grad_cosine, bool bf16_products=False) -> (Tensor, Tensor)");
  m.def("cell(Tensor[] inputs, Tensor[] parameters, int[] structure, float[] epsilon) -> (Tensor[], Tensor, Tensor)");
  m.def(
      "cell_backward(Tensor[] grads, Tensor[] states, Tensor[] parameters, Tensor mean, Tensor variance, "
      "int[] structure, float[] epsilon) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(pocketnet_fast, CPU, m) {
  m.impl("run_plan", TORCH_BOX(&pnf::ops::run_plan));
  m.impl("detect_faces", TORCH_BOX(&pnf::ops::detect_faces));
  m.impl("find_faces", TORCH_BOX(&pnf::ops::find_faces));
  m.impl("align_faces", TORCH_BOX(&pnf::ops::align_faces));
  m.impl("margin_cross_entropy", TORCH_BOX(&pnf::ops::margin_cross_entropy));
  m.impl("margin_cross_entropy_backward", TORCH_BOX(&pnf::ops::margin_cross_entropy_backward));
  m.impl("cell", TORCH_BOX(&pnf::ops::cell));
  m.impl("cell_backward", TORCH_BOX(&pnf::ops::cell_backward));
}

STABLE_TORCH_LIBRARY_IMPL(pocketnet_fast, CompositeExplicitAutograd, m) {
  m.impl("trim_memory", TORCH_BOX(&pnf::ops::trim_memory));
}

// It says what runs there instead; without it the dispatcher would answer that there is no such kernel.
STABLE_TORCH_LIBRARY_IMPL(pocketnet_fast, CUDA, m) { m.impl("run_plan", TORCH_BOX(&pnf::ops::run_plan)); }
