// Decodes image files from memory, as a server does with what it was sent; of each a line: "ok" with width and height, or
// the code of the refusal and why. "-" reads standard input. tests/test_decode_image.py compares.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "images/image.h"
#include "images/image_header.h"

namespace images = pocketnet::images;

namespace {

const char* code_of(images::Refusal refusal) {
  constexpr const char* kCodes[] = {"unread", "damaged", "pixels", "bytes", "memory", "file"};
  return kCodes[static_cast<int>(refusal)];
}

std::vector<std::uint8_t> content(const std::string& path) {
  if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  const images::ImageLimits limits = images::ImageLimits::from_environment();
  for (int i = 1; i < argc; ++i) {
    // Exactly as long as the file, so that a sanitizer sees what is read behind it.
    const std::vector<std::uint8_t> file = content(argv[i]);
    try {
      const images::Image image = images::decode_image(file, limits);
      const images::ImageHeader header = images::read_header(file);
      const bool agree = header.width * header.height == image.rgb.size() / 3;
      std::printf("%s\t%dx%d\n", agree ? "ok" : "another size than the header's", image.width, image.height);
    } catch (const images::ImageError& error) {
      std::printf("%s\t%s\n", code_of(error.refusal()), error.what());
    }
  }
  return 0;
}
