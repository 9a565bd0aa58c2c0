// The tokens that clients show, read from a file once.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pocketnet::server {

class BearerTokens {
 public:
  // One token a line, of at least 16 printable characters without spaces; empty lines and lines that begin with # are
  // passed over. Throws std::runtime_error, naming file and line, for anything else, and for a file without a token.
  static BearerTokens read(const std::string& path);

  // Whether the value of an Authorization header shows one of them. The time that takes does not depend on how much of
  // a token is right: digests are compared, all of them and to their ends.
  bool accept(std::string_view authorization) const;

 private:
  using Digest = std::array<std::uint8_t, 32>;
  static Digest digest_of(std::string_view token);

  std::vector<Digest> digests_;
};

}  // namespace pocketnet::server
