#include "hosting/calibration.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace pocketnet::hosting {

namespace {

bool equal(double one, double other) { return std::abs(one - other) <= 1e-9 * std::abs(other); }

std::string text_of(double far) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", far);
  return text;
}

constexpr char kNotStated[] = "its calibration does not state thresholds as it should";

CalibratedPoint point_of(const nlohmann::ordered_json& stated) {
  const CalibratedPoint point = {stated.at("far").get<double>(), stated.at("threshold").get<double>()};
  if (!(point.far >= 0 && point.far <= 1 && std::isfinite(point.threshold))) throw std::runtime_error(kNotStated);
  return point;
}

}  // namespace

CalibratedPoint Calibration::at(std::optional<double> far) const {
  std::string carried;
  for (const CalibratedPoint& point : points) {
    if (equal(point.far, far.value_or(default_far))) return point;
    carried += (carried.empty() ? "" : ", ") + text_of(point.far);
  }
  throw std::runtime_error("the file carries no threshold for FAR " + text_of(far.value_or(default_far)) +
                           ", only for " + carried);
}

std::optional<Calibration> calibration_of(const Metadata& metadata) {
  const auto found = metadata.raw.find("calibration");
  if (found == metadata.raw.end() || found->is_null()) return std::nullopt;
  try {
    Calibration calibration;
    calibration.flip = found->at("flip").get<bool>();
    if (!found->contains("points")) {
      calibration.points.push_back(point_of(*found));
      calibration.default_far = calibration.points[0].far;
      return calibration;
    }
    calibration.default_far = found->at("default_far").get<double>();
    for (const auto& point : found->at("points")) calibration.points.push_back(point_of(point));
    if (calibration.points.empty()) throw std::runtime_error("its calibration has no point");
    calibration.at(std::nullopt);  // throws where the default is none of the points
    return calibration;
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error(kNotStated);
  }
}

}  // namespace pocketnet::hosting
