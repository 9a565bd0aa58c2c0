// How messages show a tensor's shape.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

namespace pnf::ops {

inline std::string shape_of(const torch::stable::Tensor& t) {
  std::string text = "[";
  for (std::int64_t i = 0; i < t.dim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(t.size(i));
  return text + "]";
}

}  // namespace pnf::ops
