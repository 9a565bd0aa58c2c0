// Says of image files whether the host reads them, and what each one costs; writes what was read as PPM.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include "images/image.h"

namespace images = pocketnet::images;

namespace {

long peak_kilobytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: read_images FOLDER IMAGE...\n\n"
                 "Prints a line for each image: milliseconds, growth of the peak of memory in kB, and \"ok\" or why\n"
                 "it is refused. What is read is written to FOLDER as 0.ppm, 1.ppm, ... by its place in the list.\n");
    return 2;
  }
  for (int i = 2; i < argc; ++i) {
    const long before = peak_kilobytes();
    const auto start = std::chrono::steady_clock::now();
    std::string said = "ok";
    images::Image image;
    try {
      image = images::read_image(argv[i], images::ImageLimits::from_environment());
    } catch (const std::exception& error) {
      said = error.what();
    }
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("%.1f\t%ld\t%s\n", elapsed.count(), peak_kilobytes() - before, said.c_str());
    if (image.rgb.empty()) continue;
    std::ofstream file(std::string(argv[1]) + "/" + std::to_string(i - 2) + ".ppm", std::ios::binary);
    file << "P6\n" << image.width << " " << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
    if (!file) {
      std::fprintf(stderr, "read_images: %s cannot be written\n", argv[1]);
      return 1;
    }
  }
  return 0;
}
