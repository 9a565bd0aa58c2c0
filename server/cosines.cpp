#include "cosines.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mv.h>
#include <c10/core/InferenceMode.h>

namespace pocketnet::server {

void cosines_to(std::span<const float> query, std::span<const float> rows, std::span<float> cosines) {
  const auto count = static_cast<std::int64_t>(cosines.size());
  const auto dimensions = static_cast<std::int64_t>(query.size());
  const c10::InferenceMode guard;
  const at::Tensor matrix = at::from_blob(const_cast<float*>(rows.data()), {count, dimensions}, at::kFloat);
  const at::Tensor vector = at::from_blob(const_cast<float*>(query.data()), {dimensions}, at::kFloat);
  at::Tensor out = at::from_blob(cosines.data(), {count}, at::kFloat);
  at::mv_out(out, matrix, vector);
}

}  // namespace pocketnet::server
