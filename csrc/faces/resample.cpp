#include "faces/resample.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pnf {
namespace {

// A pixel's three values and one that does not count; loads and stores of it need no alignment.
typedef float Four __attribute__((vector_size(16)));
constexpr int kSpare = 1;  // floats behind a row that a Four may touch

Four load(const float* from) {
  Four value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

void store(float* to, Four value) { std::memcpy(to, &value, sizeof(value)); }

void widen(const std::uint8_t* row, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = static_cast<float>(row[i]);
}

void narrow(const float* row, int count, std::uint8_t* out) {
  // Values lie in 0..255 but for rounding, and are never below 0.
  for (int i = 0; i < count; ++i) out[i] = static_cast<std::uint8_t>(static_cast<int>(std::min(row[i] + 0.5f, 255.0f)));
}

// Result `to` lies between source pixels `first` and `second`.
struct Between {
  int first, second;
  float share;  // of the second
};

std::pmr::vector<Between> places_between(int from, int to, std::pmr::memory_resource* memory) {
  std::pmr::vector<Between> places(to, memory);
  const double step = static_cast<double>(from) / to;
  for (int i = 0; i < to; ++i) {
    const double place = std::clamp((i + 0.5) * step - 0.5, 0.0, from - 1.0);
    const int first = static_cast<int>(place);
    places[i] = {first, std::min(first + 1, from - 1), static_cast<float>(place - first)};
  }
  return places;
}

void enlarge(const Pixels& image, int height, int width, std::uint8_t* out, std::ptrdiff_t stride,
             std::pmr::memory_resource* memory) {
  const std::pmr::vector<Between> columns = places_between(image.width, width, memory),
                                  rows = places_between(image.height, height, memory);
  const int count = 3 * width;
  std::pmr::vector<float> wide(3 * std::size_t(image.width) + kSpare, memory), result(count + kSpare, memory);
  // The two source rows in use, at the result's width; row y lies in memory y % 2.
  std::pmr::vector<float> stretched[2] = {std::pmr::vector<float>(count + kSpare, memory),
                                          std::pmr::vector<float>(count + kSpare, memory)};
  int held[2] = {-1, -1};
  const auto row = [&](int y) {
    std::pmr::vector<float>& into = stretched[y % 2];
    if (held[y % 2] != y) {
      widen(image.row(y), 3 * image.width, wide.data());
      for (int x = 0; x < width; ++x) {
        const Four first = load(wide.data() + 3 * columns[x].first), second = load(wide.data() + 3 * columns[x].second);
        store(into.data() + 3 * x, first + columns[x].share * (second - first));
      }
      held[y % 2] = y;
    }
    return into.data();
  };
  for (int y = 0; y < height; ++y, out += stride) {
    const float *const first = row(rows[y].first), *const second = row(rows[y].second);
    const float share = rows[y].share;
    for (int i = 0; i < count; ++i) result[i] = first[i] + share * (second[i] - first[i]);
    narrow(result.data(), count, out);
  }
}

// A result pixel's area: whole source pixels from `first` to `last`, but for the shares of these two.
struct Area {
  int first, last;
  float first_share, share, last_share;  // shares add up to 1
};

std::pmr::vector<Area> areas(int from, int to, std::pmr::memory_resource* memory) {
  std::pmr::vector<Area> found(to, memory);
  const double step = static_cast<double>(from) / to;
  for (int i = 0; i < to; ++i) {
    const double begin = i * step, end = std::min((i + 1) * step, static_cast<double>(from));
    Area& area = found[i];
    area.first = static_cast<int>(begin);
    area.last = std::max(static_cast<int>(std::ceil(end)) - 1, area.first);
    const double all = end - begin;
    const double first = std::min(end, area.first + 1.0) - begin;
    area.first_share = static_cast<float>(first / all);
    area.share = static_cast<float>(1.0 / all);
    area.last_share = static_cast<float>((end - area.last) / all);
  }
  return found;
}

void reduce(const Pixels& image, int height, int width, std::uint8_t* out, std::ptrdiff_t stride,
            std::pmr::memory_resource* memory) {
  const std::pmr::vector<Area> columns = areas(image.width, width, memory), rows = areas(image.height, height, memory);
  const int count = 3 * image.width;
  std::pmr::vector<float> sum(count + kSpare, memory), result(3 * std::size_t(width) + kSpare, memory);
  const auto add = [&](int y, float share) {
    const std::uint8_t* const row = image.row(y);
    for (int i = 0; i < count; ++i) sum[i] += share * static_cast<float>(row[i]);
  };
  for (int y = 0; y < height; ++y, out += stride) {
    const Area& area = rows[y];
    std::fill(sum.begin(), sum.end(), 0.0f);
    add(area.first, area.first_share);
    for (int i = area.first + 1; i < area.last; ++i) add(i, area.share);
    if (area.last > area.first) add(area.last, area.last_share);
    for (int x = 0; x < width; ++x) {
      const Area& across = columns[x];
      const float* from = sum.data() + 3 * across.first;
      Four mean = across.first_share * load(from);
      for (int i = across.first + 1; i < across.last; ++i) mean += across.share * load(from += 3);
      if (across.last > across.first) mean += across.last_share * load(from + 3);
      store(result.data() + 3 * x, mean);
    }
    narrow(result.data(), 3 * width, out);
  }
}

constexpr int kBits = 10;
constexpr int kOne = 1 << kBits;
// Beyond every image. Where it is added, a place is positive, and conversion rounds down.
constexpr int kFar = 1 << 24;

// A place in units of 1 / kOne, kFar added.
std::int64_t fixed(double place) { return static_cast<std::int64_t>((place + kFar) * kOne + 0.5); }

// The mean of four neighbours, by how far to the right of and below the first one a place lies between them.
std::uint8_t blended(int upper_left, int upper_right, int lower_left, int lower_right, int x, int y) {
  const int upper = upper_left * kOne + (upper_right - upper_left) * x;
  const int lower = lower_left * kOne + (lower_right - lower_left) * x;
  return static_cast<std::uint8_t>((upper * kOne + (lower - upper) * y + (1 << (2 * kBits - 1))) >> (2 * kBits));
}

}  // namespace

void resize(const Pixels& image, int height, int width, std::uint8_t* out, std::ptrdiff_t stride,
            std::pmr::memory_resource* memory) {
  if (height == image.height && width == image.width) {
    for (int y = 0; y < height; ++y) std::memcpy(out + y * stride, image.row(y), std::size_t{3} * width);
  } else if (height <= image.height && width <= image.width) {
    reduce(image, height, width, out, stride, memory);
  } else {
    enlarge(image, height, width, out, stride, memory);
  }
}

OwnedPixels resized(const Pixels& image, int height, int width, std::pmr::memory_resource* memory) {
  OwnedPixels result(height, width, memory);
  resize(image, height, width, result.row(0), result.pixels().stride, memory);
  return result;
}

OwnedPixels turned(const Pixels& image, int degrees, std::pmr::memory_resource* memory) {
  const bool lies = degrees % 180 != 0;
  OwnedPixels result(lies ? image.width : image.height, lies ? image.height : image.width, memory);
  // Byte steps through the source for one pixel to the right, and one down, in the result.
  const std::ptrdiff_t down = image.stride;
  const std::uint8_t* corner = image.data;
  std::ptrdiff_t right_step = 3, down_step = down;
  const std::ptrdiff_t last_row = (image.height - 1) * down, last_column = std::ptrdiff_t{3} * (image.width - 1);
  if (degrees == 90) {
    corner += last_row, right_step = -down, down_step = 3;
  } else if (degrees == 180) {
    corner += last_row + last_column, right_step = -3, down_step = -down;
  } else if (degrees == 270) {
    corner += last_column, right_step = down, down_step = -3;
  }
  for (int y = 0; y < result.height(); ++y) {
    const std::uint8_t* from = corner + y * down_step;
    std::uint8_t* to = result.row(y);
    for (int x = 0; x < result.width(); ++x, from += right_step, to += 3) std::memcpy(to, from, 3);
  }
  return result;
}

void warp(const Pixels& image, const Similarity& to_result, int height, int width, std::uint8_t* out) {
  const Similarity back = to_result.inverse();
  const double step_x = back.scale.real(), step_y = back.scale.imag();
  // Copies, because writing bytes might change what is referred to.
  const std::uint8_t* const data = image.data;
  const std::ptrdiff_t stride = image.stride;
  const int image_height = image.height, image_width = image.width;
  const auto at = [=](int column, int row, int c) -> int {
    const bool inside = column >= 0 && row >= 0 && column < image_width && row < image_height;
    return inside ? data[row * stride + std::ptrdiff_t{3} * column + c] : 0;
  };
  for (int y = 0; y < height; ++y) {
    const Point start = back({0.0, static_cast<double>(y)});
    const double start_x = start.real(), start_y = start.imag();
    for (int x = 0; x < width; ++x, out += 3) {
      const double place_x = start_x + x * step_x, place_y = start_y + x * step_y;
      // Written so that what is not a number lies outside, too.
      if (!(std::abs(place_x) < kFar && std::abs(place_y) < kFar)) {
        std::memset(out, 0, 3);
        continue;
      }
      const std::int64_t fixed_x = fixed(place_x), fixed_y = fixed(place_y);
      const int column = static_cast<int>(fixed_x >> kBits) - kFar, row = static_cast<int>(fixed_y >> kBits) - kFar;
      const int right = static_cast<int>(fixed_x & (kOne - 1)), below = static_cast<int>(fixed_y & (kOne - 1));
      if (column >= 0 && row >= 0 && column + 1 < image_width && row + 1 < image_height) {
        const std::uint8_t* const from = data + row * stride + std::ptrdiff_t{3} * column;
        for (int c = 0; c < 3; ++c) {
          out[c] = blended(from[c], from[c + 3], from[stride + c], from[stride + c + 3], right, below);
        }
      } else {
        for (int c = 0; c < 3; ++c) {
          out[c] = blended(at(column, row, c), at(column + 1, row, c), at(column, row + 1, c),
                           at(column + 1, row + 1, c), right, below);
        }
      }
    }
  }
}

OwnedPixels warped(const Pixels& image, const Similarity& to_result, int height, int width,
                   std::pmr::memory_resource* memory) {
  OwnedPixels result(height, width, memory);
  const double scale = std::abs(to_result.scale);
  // Bilinear sampling of every second pixel or fewer would alias.
  if (scale > 0.6) {
    warp(image, to_result, height, width, result.row(0));
    return result;
  }
  // Only what the result shows, whose corners lie here.
  const Similarity back = to_result.inverse();
  double least_x = image.width, least_y = image.height, most_x = -1.0, most_y = -1.0;
  for (const double x : {-1.0, static_cast<double>(width)}) {
    for (const double y : {-1.0, static_cast<double>(height)}) {
      const Point corner = back({x, y});
      least_x = std::min(least_x, corner.real()), most_x = std::max(most_x, corner.real());
      least_y = std::min(least_y, corner.imag()), most_y = std::max(most_y, corner.imag());
    }
  }
  const auto inside = [](double place, int side) { return static_cast<int>(std::clamp(place, 0.0, side - 1.0)); };
  const int left = inside(std::floor(least_x), image.width), top = inside(std::floor(least_y), image.height);
  const int wide = inside(std::ceil(most_x), image.width) - left + 1;
  const int high = inside(std::ceil(most_y), image.height) - top + 1;
  const int small_high = std::max(1, static_cast<int>(std::lround(high * scale)));
  const int small_wide = std::max(1, static_cast<int>(std::lround(wide * scale)));
  const OwnedPixels small = resized(image.part(left, top, wide, high), small_high, small_wide, memory);
  // The two axes' scales differ by the rounding of the sides; a similarity takes their mean.
  const double ratio = 0.5 * (static_cast<double>(wide) / small_wide + static_cast<double>(high) / small_high);
  const Point half{0.5, 0.5};
  const Similarity from_small = {ratio,
                                 ratio * half - half + Point{static_cast<double>(left), static_cast<double>(top)}};
  warp(small.pixels(), to_result.after(from_small), height, width, result.row(0));
  return result;
}

}  // namespace pnf
