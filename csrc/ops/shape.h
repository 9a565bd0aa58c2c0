// How messages show a tensor's shape and dtype.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <utility>

namespace pnf::ops {

inline std::string shape_of(const torch::stable::Tensor& t) {
  std::string text = "[";
  for (std::int64_t i = 0; i < t.dim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(t.size(i));
  return text + "]";
}

inline std::string dtype_of(const torch::stable::Tensor& t) {
  using torch::headeronly::ScalarType;
  using Named = std::pair<ScalarType, const char*>;
  for (const auto& [type, name] :
       {Named{ScalarType::Double, "float64"}, Named{ScalarType::Float, "float32"}, Named{ScalarType::Half, "float16"},
        Named{ScalarType::BFloat16, "bfloat16"}, Named{ScalarType::Byte, "uint8"}, Named{ScalarType::Char, "int8"},
        Named{ScalarType::Short, "int16"}, Named{ScalarType::Int, "int32"}, Named{ScalarType::Long, "int64"},
        Named{ScalarType::Bool, "bool"}}) {
    if (type == t.scalar_type()) return name;
  }
  return torch::headeronly::toString(t.scalar_type());
}

}  // namespace pnf::ops
