#include "bearer_tokens.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

namespace pocketnet::server {
namespace {

constexpr std::size_t kLeastLength = 16;

std::string_view without_space_around(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

bool begins_with_bearer(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  return authorization.size() > kScheme.size() &&
         std::equal(kScheme.begin(), kScheme.end(), authorization.begin(),
                    [](char expected, char c) { return expected == (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
}

}  // namespace

BearerTokens::Digest BearerTokens::digest_of(std::string_view token) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), digest.data());
  return digest;
}

BearerTokens BearerTokens::read(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": the file of tokens cannot be opened");
  BearerTokens tokens;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const std::string_view token = without_space_around(line);
    if (token.empty() || token.front() == '#') continue;
    const bool printable = std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (token.size() < kLeastLength || !printable) {
      throw std::runtime_error(path + ": line " + std::to_string(number) + ": a token has at least " +
                               std::to_string(kLeastLength) + " printable ASCII characters, no spaces among them");
    }
    tokens.digests_.push_back(digest_of(token));
  }
  if (tokens.digests_.empty()) throw std::runtime_error(path + ": holds no token");
  return tokens;
}

bool BearerTokens::accept(std::string_view authorization) const {
  if (!begins_with_bearer(authorization)) return false;
  const Digest shown = digest_of(without_space_around(authorization.substr(7)));
  int found = 0;
  for (const Digest& digest : digests_) found |= CRYPTO_memcmp(digest.data(), shown.data(), shown.size()) == 0 ? 1 : 0;
  return found != 0;
}

}  // namespace pocketnet::server
