// SHA-256 (FIPS 180-4).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pnf::library {

using Digest = std::array<std::uint8_t, 32>;

Digest sha256(std::span<const std::byte> content);

}  // namespace pnf::library
