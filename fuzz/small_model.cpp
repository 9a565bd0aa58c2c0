#include "small_model.h"

#include <vector>

#include "model_file_builder.h"
#include "program_builder.h"

namespace pnf::fuzz {
namespace {

constexpr int kSide = 20, kDim = 24, kDetectorSide = 32;

// Maps at strides of 8, 16 and 32 pixels, of the 16 channels that a detector's have.
test::Encoded detector(bool half) {
  using enum TermKind;
  int cells = 0;
  for (const int stride : {8, 16, 32}) cells += (kDetectorSide / stride) * (kDetectorSide / stride);
  test::ProgramBuilder b(kDetectorSide, kDetectorSide, cells * kBlock, 3, half);
  b.set_unit(32);
  int side = kDetectorSide / 2, state = b.arena(1, side, side);
  std::vector<int> maps;
  b.stem(state);
  while (maps.size() < 3) {
    side /= 2;
    const int next = b.arena(1, side, side);
    b.node(next, {{kDepthwise, state, 3, 2}});
    state = next;
    if (kDetectorSide / side >= 8) maps.push_back(state);
  }
  for (const int map : maps) b.map(map, kBlock);
  return b.finish();
}

}  // namespace

std::string small_model(bool half, bool photos) {
  const test::Encoded crops = test::small_network(kSide, kSide, 1, kDim, 7, true, half);
  std::vector<test::Part> parts = {{1, test::facts(kDim, {1e-3, 0.35, 1e-5, 0.5})},
                                   {2, "{\"model\": \"small\"}"},
                                   {3, test::raw(crops.words)},
                                   {4, test::raw(crops.weights)}};
  if (photos) {
    const test::Encoded faces = detector(half);
    parts.push_back({5, test::raw(faces.words)});
    parts.push_back({6, test::raw(faces.weights)});
  }
  return test::file_of(parts);
}

}  // namespace pnf::fuzz
