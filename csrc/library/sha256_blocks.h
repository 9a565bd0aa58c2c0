// What SHA-256 does with blocks of 64 bytes, by the instructions that there are.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace pnf::library {

using Sha256State = std::array<std::uint32_t, 8>;
using Sha256Blocks = void (*)(Sha256State& state, const std::byte* blocks, std::size_t count);

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
extern const std::uint32_t kSha256Rounds[64];

void sha256_blocks_plain(Sha256State& state, const std::byte* blocks, std::size_t count);
#if defined(__x86_64__)
// Where CpuFeatures::sha is true.
void sha256_blocks_x86(Sha256State& state, const std::byte* blocks, std::size_t count);
#endif

// The quickest that this CPU has.
Sha256Blocks sha256_blocks();

}  // namespace pnf::library
