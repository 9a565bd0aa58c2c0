#include "npy.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <stdexcept>

namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicSize = 6;
constexpr std::size_t kMaxHeader = 4096;

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

// The dictionary behind the magic number; its length has two bytes in version 1 and four from version 2 on.
std::string read_header(std::ifstream& file, const std::string& path) {
  unsigned char start[kMagicSize + 2 + 4] = {};
  const auto bytes = [&](std::size_t from, std::size_t size) {
    file.read(reinterpret_cast<char*>(start) + from, static_cast<std::streamsize>(size));
  };
  bytes(0, kMagicSize + 2);
  if (!file || !std::equal(kMagic, kMagic + kMagicSize, reinterpret_cast<const char*>(start))) {
    fail(path, "is no .npy file");
  }
  const std::size_t wide = start[kMagicSize] == 1 ? 2 : 4;
  bytes(kMagicSize + 2, wide);
  std::size_t length = 0;
  for (std::size_t i = 0; i < wide; ++i) length |= std::size_t{start[kMagicSize + 2 + i]} << (8 * i);
  if (!file || length > kMaxHeader) fail(path, "has a damaged .npy header");
  std::string header(length, '\0');
  file.read(header.data(), static_cast<std::streamsize>(length));
  if (!file) fail(path, "ends in its .npy header");
  return header;
}

}  // namespace

CropFile::CropFile(const std::string& path) : path_(path) {
  if (std::filesystem::is_directory(path)) fail(path, "is a folder");
  file_.open(path, std::ios::binary);
  if (!file_) fail(path, "cannot be opened");
  const std::string header = read_header(file_, path);
  static const std::regex kShape(R"('shape': \((\d{1,12}), 112, 112, 3\))");
  std::smatch shape;
  if (header.find("'descr': '|u1'") == std::string::npos ||
      header.find("'fortran_order': False") == std::string::npos || !std::regex_search(header, shape, kShape)) {
    fail(path, "expected uint8 crops of shape (N, 112, 112, 3), found " + header.substr(0, header.find('\n')));
  }
  count_ = std::stoll(shape[1]);
  const auto begin = static_cast<std::int64_t>(file_.tellg());
  if (static_cast<std::int64_t>(std::filesystem::file_size(path)) - begin != count_ * kBytes) {
    fail(path, "does not hold the " + std::to_string(count_) + " crops that its header states");
  }
}

std::vector<std::uint8_t> CropFile::read(std::int64_t limit) {
  const std::int64_t size = std::min(limit, count_ - done_);
  std::vector<std::uint8_t> crops(static_cast<std::size_t>(size * kBytes));
  file_.read(reinterpret_cast<char*>(crops.data()), static_cast<std::streamsize>(crops.size()));
  if (!file_) fail(path_, "cannot be read");
  done_ += size;
  return crops;
}

void write_npy(const std::string& path, const float* values, std::int64_t rows, std::int64_t columns) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                       std::to_string(columns) + "), }";
  // Magic, version and length take 10 bytes; data start at a multiple of 64, after a line feed.
  header.append(63 - (10 + header.size()) % 64, ' ').push_back('\n');
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  const char length[2] = {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  file.write(kMagic, kMagicSize).write("\x01\x00", 2).write(length, 2);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(rows * columns * sizeof(float)));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path, error);
  if (!file || error) {
    std::remove(temporary.c_str());
    fail(path, "cannot be written");
  }
}
