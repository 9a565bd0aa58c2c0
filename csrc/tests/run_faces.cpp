// Finds and aligns the faces of a photo, without torch: run_faces PROGRAM WEIGHTS ISA HEIGHT WIDTH PIXELS CALLERS. The files
// hold the int32 words and float32 weights of a detector, and uint8 pixels. For each face that is not doubtful, 15 doubles
// (box, landmarks, score) and the crop's bytes go to standard output. So many threads do it at once, and must agree.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "faces/alignment.h"
#include "faces/detector.h"
#include "faces/pooled_detector_network.h"
#include "kernels/dispatch.h"
#include "read_file.h"

namespace {

template <typename T>
void append(const std::vector<T>& values, std::vector<std::uint8_t>& bytes) {
  const auto* const first = reinterpret_cast<const std::uint8_t*>(values.data());
  bytes.insert(bytes.end(), first, first + values.size() * sizeof(T));
}

std::vector<std::uint8_t> faces_of(const pnf::Pixels& photo, pnf::DetectorNetwork&& network) {
  std::vector<std::uint8_t> bytes;
  for (const pnf::Face& face : pnf::find_faces(photo, network, {})) {
    if (face.doubt != pnf::Doubt::kNone) continue;
    std::vector<double> numbers = {face.left, face.top, face.width, face.height};
    for (const pnf::Point& landmark : face.landmarks) numbers.insert(numbers.end(), {landmark.real(), landmark.imag()});
    numbers.push_back(face.score);
    std::vector<std::uint8_t> crop(3 * pnf::kCropSide * pnf::kCropSide);
    pnf::align(photo, face.landmarks, pnf::kCropSide, crop.data());
    append(numbers, bytes);
    append(crop, bytes);
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const std::vector<std::int32_t> words = pnf::test::read_file<std::int32_t>(argv[1]);
  const std::vector<float> weights = pnf::test::read_file<float>(argv[2]);
  pnf::force_isa(argv[3]);
  const int height = std::atoi(argv[4]), width = std::atoi(argv[5]);
  const std::vector<std::uint8_t> pixels = pnf::test::read_file<std::uint8_t>(argv[6]);
  if (pixels.size() != std::size_t{3} * height * width) return 2;
  const pnf::Pixels photo = {pixels.data(), height, width, std::ptrdiff_t{3} * width};
  std::vector<std::vector<std::uint8_t>> found(std::max(1, std::atoi(argv[7])));
  std::vector<std::thread> callers;
  for (std::vector<std::uint8_t>& mine : found) {
    callers.emplace_back([&] { mine = faces_of(photo, pnf::PooledDetectorNetwork(words, weights, 2)); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::vector<std::uint8_t>& other : found) {
    if (other == found[0]) continue;
    std::fputs("the callers disagree\n", stderr);
    return 1;
  }
  if (!found[0].empty()) std::fwrite(found[0].data(), 1, found[0].size(), stdout);
  return std::ferror(stdout) != 0;
}
