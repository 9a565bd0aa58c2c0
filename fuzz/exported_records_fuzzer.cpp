// Any text as the records that exported files carry of themselves, whose first byte says which one: refused in words, or
// what they state is finite.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "hosting/calibration.h"
#include "hosting/check_record.h"
#include "hosting/metadata.h"
#include "require.h"

namespace {

using namespace pocketnet::hosting;

bool finite(const auto& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

void read_metadata(const std::string& text) {
  const Metadata metadata = parse_metadata(text);
  REQUIRE(metadata.embedding_dim > 0);
  REQUIRE(finite(metadata.mean) && finite(metadata.std));
  const auto calibration = calibration_of(metadata);
  if (!calibration) return;
  REQUIRE(!calibration->points.empty());
  for (const CalibratedPoint& point : calibration->points) {
    REQUIRE(point.far >= 0 && point.far <= 1 && std::isfinite(point.threshold));
  }
  REQUIRE(calibration->at(std::nullopt).far == calibration->at(calibration->default_far).far);
}

void read_check(const std::string& text) {
  const Check check = parse_check(text);
  REQUIRE(!check.embedding.empty() && finite(check.embedding) && std::abs(check.least_cosine) <= 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(data + 1, data + size);
  try {
    data[0] % 2 == 0 ? read_metadata(text) : read_check(text);
  } catch (const std::runtime_error& error) {
    const std::string why = error.what();
    REQUIRE(!why.empty() && why.find('\n') == std::string::npos);
  }
  return 0;
}
