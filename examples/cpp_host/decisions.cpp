#include "decisions.h"

#include <ATen/ATen.h>

#include <exception>
#include <stdexcept>

#include "json.h"

std::optional<Decider> decider(const std::string& file, const std::string& metadata, const std::optional<double>& far) {
  const std::optional<Calibration> calibration = calibration_of(metadata);
  if (!calibration && far) {
    throw std::runtime_error(file + ": carries no threshold that --far could choose; calibrate the weights " +
                             "(pocketnet calibrate) and export them again");
  }
  if (!calibration) return std::nullopt;
  try {
    return Decider{calibration->at(far), calibration->flip, far.has_value()};
  } catch (const std::exception& error) {
    throw std::runtime_error(file + ": " + error.what());
  }
}

at::Tensor cosines(const at::Tensor& embedding) {
  const at::Tensor unit = embedding / embedding.norm(2, {1}, true).clamp_min(1e-12);
  return unit.mm(unit.t());
}

std::string decisions_as_json(const Decider& by, const at::Tensor& similarity, const std::vector<std::size_t>& names,
                              const std::string& about) {
  std::string out = "{\"threshold\": " + number(by.point.threshold) + ", \"far\": " + number(by.point.far) +
                    ", \"far_source\": " + (by.chosen ? "\"option\"" : "\"calibration\"") +
                    ", \"flip\": " + (by.flip ? "true" : "false") + ", \"cosines_of\": " + quoted(about) +
                    ", \"pairs\": [";
  for (std::int64_t a = 0; a < similarity.size(0); ++a) {
    for (std::int64_t b = a + 1; b < similarity.size(0); ++b) {
      const float cosine = similarity[a][b].item<float>();
      out += (a == 0 && b == 1 ? "\n" : ",\n") + ("{\"a\": " + std::to_string(names[a])) +
             ", \"b\": " + std::to_string(names[b]) + ", \"cosine\": " + number(cosine) +
             ", \"same\": " + (cosine >= by.point.threshold ? "true" : "false") + "}";
    }
  }
  return out + "]}";
}
