// Files of libpocketnet for its tests, written as docs/model_file.md describes them.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "library/sha256.h"

namespace pnf::test {

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

struct Part {
  std::uint32_t kind;
  std::string content;
};

// As docs/model_file.md describes it.
inline std::string file_of(const std::vector<Part>& parts) {
  std::string table, body;
  const std::size_t begin = 64 + 24 * parts.size();
  for (const Part& part : parts) {
    body.append((64 - (begin + body.size()) % 64) % 64, '\0');
    append(table, part.kind);
    append(table, std::uint32_t{0});
    append(table, std::uint64_t{begin + body.size()});
    append(table, std::uint64_t{part.content.size()});
    body += part.content;
  }
  const std::string rest = table + body;
  std::string header = "\x89PNF\r\n\x1a\n";
  append(header, std::uint32_t{1});
  append(header, static_cast<std::uint32_t>(parts.size()));
  append(header, std::uint64_t{64 + rest.size()});
  const library::Digest digest = library::sha256(std::as_bytes(std::span(rest)));
  header.append(digest.begin(), digest.end());
  append(header, std::uint64_t{0});
  return header + rest;
}

inline std::string facts(std::uint32_t dim, const std::vector<double>& thresholds) {
  std::string bytes;
  append(bytes, dim);
  append(bytes, std::uint32_t{1});
  append(bytes, std::uint32_t{0});
  append(bytes, 0.7f);
  append(bytes, static_cast<std::uint32_t>(thresholds.size() / 2));
  append(bytes, std::uint32_t{0});
  bytes.append(32, '\x5a');
  append(bytes, std::uint64_t{0});
  return bytes + raw(thresholds);
}

}  // namespace pnf::test
