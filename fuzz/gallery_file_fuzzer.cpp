// Any bytes as a gallery's file, as the service opens it: refused in words, or who is in it is told, and it is searched.
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cosines.h"
#include "gallery_file.h"
#include "require.h"

namespace pocketnet::server {

// In the service LibTorch computes them, which no fuzzer is built with.
void cosines_to(std::span<const float> query, std::span<const float> rows, std::span<float> cosines) {
  REQUIRE(rows.size() == query.size() * cosines.size());
  for (std::size_t row = 0; row < cosines.size(); ++row) {
    float sum = 0;
    for (std::size_t i = 0; i < query.size(); ++i) sum += query[i] * rows[row * query.size() + i];
    cosines[row] = sum;
  }
}

}  // namespace pocketnet::server

namespace {

using namespace pocketnet::server;

// A file of this process, in memory where there is such a place.
std::string path_of_file() {
  const std::filesystem::path memory = "/dev/shm";
  const auto folder = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
  return folder / ("pocketnet-fuzz-" + std::to_string(getpid()) + ".gallery");
}

void look_into(GalleryFile& gallery) {
  const auto [people, faces] = gallery.counts();
  REQUIRE(people >= 0 && faces >= 0);
  for (const PersonRow& person : gallery.people(0, 4)) {
    gallery.person(person.id);
    gallery.faces(person.id);
  }
  std::vector<float> query(static_cast<std::size_t>(gallery.space().dimensions));
  query.front() = 1;
  float before = INFINITY;
  for (const GalleryMatch& match : gallery.search(query, 3)) {
    REQUIRE(std::isfinite(match.cosine) && match.cosine <= before);
    before = match.cosine;
  }
}

void change(GalleryFile& gallery) {
  const auto dimensions = static_cast<std::size_t>(gallery.space().dimensions);
  const auto [person, face] = gallery.add("Eve", {.embedding = std::vector<float>(dimensions, 0.5F)});
  REQUIRE(person > 0 && face > 0);
  look_into(gallery);
  REQUIRE(gallery.remove(person));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string path = path_of_file();
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  for (const bool read_only : {true, false}) {
    try {
      GalleryFile gallery(path, read_only);
      look_into(gallery);
      if (!read_only) change(gallery);
    } catch (const std::runtime_error& error) {
      const std::string_view why = error.what();
      REQUIRE(!why.empty() && why.find('\n') == std::string_view::npos);
    }
  }
  for (const char* beside : {"", "-wal", "-shm", "-journal"}) std::filesystem::remove(path + beside);
  return 0;
}
