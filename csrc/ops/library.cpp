// Every operator schema of the project, and nothing else.
#include <torch/csrc/stable/library.h>

#include "ops/run_plan.h"

STABLE_TORCH_LIBRARY(pocketnet_fast, m) {
  m.def("run_plan(Tensor input, Tensor program, Tensor weights, int embedding, int threads, bool flip) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pocketnet_fast, CPU, m) { m.impl("run_plan", TORCH_BOX(&pnf::ops::run_plan)); }
