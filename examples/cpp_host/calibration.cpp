#include "calibration.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace {

// Where the value of a key begins that stands at or after a place, or npos. The text is ours: a key in quotation marks
// of its own never stands inside a string, whose marks are escaped.
std::size_t value_after(const std::string& json, const std::string& key, std::size_t at) {
  const std::string mark = "\"" + key + "\": ";
  const std::size_t found = json.find(mark, at);
  return found == std::string::npos ? found : found + mark.size();
}

// The number that begins at a place; throws if none does.
double number_at(const std::string& json, const std::string& key, std::size_t value) {
  const char* text = value == std::string::npos ? nullptr : json.c_str() + value;
  char* end = nullptr;
  const double number = text == nullptr ? 0 : std::strtod(text, &end);
  if (text == nullptr || end == text) throw std::runtime_error("the file's calibration has no number for " + key);
  return number;
}

double number_after(const std::string& json, const std::string& key, std::size_t at) {
  return number_at(json, key, value_after(json, key, at));
}

bool equal(double one, double other) { return std::abs(one - other) <= 1e-9 * std::abs(other); }

std::string text_of(double far) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", far);
  return text;
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

std::optional<Calibration> calibration_of(const std::string& metadata) {
  const std::size_t at = metadata.find("\"calibration\": {");
  if (at == std::string::npos) return std::nullopt;
  Calibration calibration;
  const std::size_t flip = value_after(metadata, "flip", at);
  calibration.flip = flip != std::string::npos && metadata.compare(flip, 4, "true") == 0;
  const std::size_t points = value_after(metadata, "points", at);
  if (points == std::string::npos) {
    calibration.default_far = number_after(metadata, "far", at);
    calibration.points.push_back({calibration.default_far, number_after(metadata, "threshold", at)});
    return calibration;
  }
  calibration.default_far = number_after(metadata, "default_far", at);
  // Each threshold follows its rate; what was measured, rates too, comes after both.
  for (std::size_t threshold = value_after(metadata, "threshold", points); threshold != std::string::npos;
       threshold = value_after(metadata, "threshold", threshold)) {
    const std::size_t far = metadata.rfind("\"far\": ", threshold);
    calibration.points.push_back({number_after(metadata, "far", far), number_at(metadata, "threshold", threshold)});
  }
  return calibration;
}
