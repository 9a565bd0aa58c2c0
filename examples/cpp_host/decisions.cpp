#include "decisions.h"

#include <exception>
#include <stdexcept>

namespace hosting = pocketnet::hosting;

std::optional<Decider> decider(const std::string& file, const hosting::Metadata& metadata,
                               const std::optional<double>& far) {
  try {
    const std::optional<hosting::Calibration> calibration = hosting::calibration_of(metadata);
    if (calibration) return Decider{calibration->at(far), calibration->flip, far.has_value()};
  } catch (const std::exception& error) {
    throw std::runtime_error(file + ": " + error.what());
  }
  if (far) {
    throw std::runtime_error(file + ": carries no threshold that --far could choose; calibrate the weights " +
                             "(pocketnet calibrate) and export them again");
  }
  return std::nullopt;
}

at::Tensor cosines(const at::Tensor& embedding) {
  const at::Tensor unit = embedding.div(embedding.norm(2, {1}, true).clamp_min(1e-12));
  return unit.mm(unit.t());
}

Json decisions(const Decider& by, const at::Tensor& similarity, const std::vector<std::size_t>& names,
               const std::string& about) {
  Json pairs = Json::array();
  for (std::int64_t a = 0; a < similarity.size(0); ++a) {
    for (std::int64_t b = a + 1; b < similarity.size(0); ++b) {
      const float cosine = similarity[a][b].item<float>();
      pairs.push_back(
          {{"a", names[a]}, {"b", names[b]}, {"cosine", shortest(cosine)}, {"same", cosine >= by.point.threshold}});
    }
  }
  return {{"threshold", by.point.threshold},
          {"far", by.point.far},
          {"far_source", by.chosen ? "option" : "calibration"},
          {"flip", by.flip},
          {"cosines_of", about},
          {"pairs", pairs}};
}
