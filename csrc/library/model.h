// An open model: what its file says, checked, and the kernels that run it.
#pragma once
#include <array>
#include <cstddef>

#include "kernels/dispatch.h"
#include "library/content.h"
#include "library/model_file.h"
#include "plan/program.h"
#include "pocketnet.h"

// Never changes, so threads share it.
struct pocketnet_model {
  // Throws pnf::library::Refusal.
  pocketnet_model(pnf::library::Content content, const pocketnet_open_options& options);

  const pnf::library::Content content;
  const pnf::library::ModelFile file;
  const pnf::ChosenKernels& kernels;
  const std::size_t max_working_bytes;
  std::array<pnf::Program, 2> embedder;  // for pixels of R, G and B, and of B, G and R

  int crop_side() const { return embedder[0].height; }
  bool takes_photos() const { return !file.detector.program.empty(); }
};
