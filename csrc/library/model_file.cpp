#include "library/model_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "library/status.h"

namespace pnf::library {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read in place, and are little endian");

// As in PNG: what mangles line ends or the eighth bit mangles these.
constexpr std::array<unsigned char, 8> kMagic = {0x89, 'P', 'N', 'F', '\r', '\n', 0x1a, '\n'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kAlignment = 64, kMostSections = 64;
constexpr std::uint32_t kMostDim = 65536, kMostThresholds = 1024;

struct Header {
  unsigned char magic[8];
  std::uint32_t version;
  std::uint32_t sections;
  std::uint64_t bytes;  // of the file
  Digest digest;        // of what follows the header
  std::uint64_t reserved;
};
static_assert(sizeof(Header) == 64);

enum SectionKind : std::uint32_t {
  kFacts = 1,
  kMetadata = 2,
  kEmbedderProgram = 3,
  kEmbedderWeights = 4,
  kDetectorProgram = 5,
  kDetectorWeights = 6,
};
constexpr int kKinds = 7;

struct Section {
  std::uint32_t kind;
  std::uint32_t reserved;
  std::uint64_t offset, bytes;
};
static_assert(sizeof(Section) == 24);

struct Facts {
  std::uint32_t embedding_dim;
  std::uint32_t flags;
  std::uint32_t max_faces;
  float least_score;
  std::uint32_t thresholds;
  std::uint32_t default_threshold;
  std::uint8_t space[32];
  std::uint64_t reserved;
};
static_assert(sizeof(Facts) == 64);
constexpr std::uint32_t kFlip = 1, kUpright = 2;

[[noreturn]] void damaged(const std::string& what) {
  throw Refusal(POCKETNET_BAD_FILE, "a damaged .pnf file: " + what);
}

template <typename T>
const T& at(std::span<const std::byte> bytes, std::size_t offset = 0) {
  return *reinterpret_cast<const T*>(bytes.data() + offset);
}

template <typename T>
std::span<const T> all_of(std::span<const std::byte> bytes, const char* what) {
  if (bytes.size() % sizeof(T) != 0) damaged(std::string(what) + " end inside a number");
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

using Sections = std::array<std::span<const std::byte>, kKinds>;

Sections sections_of(std::span<const std::byte> content, std::uint32_t count) {
  Sections found;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto& section = at<Section>(content, sizeof(Header) + i * sizeof(Section));
    const std::uint64_t first = sizeof(Header) + count * sizeof(Section);
    if (section.offset < first || section.offset % kAlignment != 0 || section.offset > content.size() ||
        section.bytes > content.size() - section.offset || section.bytes == 0) {
      damaged("section " + std::to_string(i) + " leaves the file");
    }
    // Kinds of later versions that can be left out are above this version's.
    if (section.kind >= kKinds) continue;
    if (!found[section.kind].empty()) damaged("two sections of kind " + std::to_string(section.kind));
    found[section.kind] = content.subspan(section.offset, section.bytes);
  }
  return found;
}

NetworkFile network_of(std::span<const std::byte> program, std::span<const std::byte> weights, const char* what) {
  if (program.empty() != weights.empty()) damaged(std::string(what) + " without its program or its weights");
  return {all_of<std::int32_t>(program, "a program's words"), all_of<float>(weights, "weights")};
}

void read_facts(std::span<const std::byte> section, ModelFile& file) {
  if (section.size() < sizeof(Facts)) damaged("its facts are missing");
  const auto& facts = at<Facts>(section);
  if (facts.embedding_dim < 1 || facts.embedding_dim > kMostDim) {
    damaged("embeddings of " + std::to_string(facts.embedding_dim) + " numbers");
  }
  if (!(facts.least_score >= 0.0f && facts.least_score <= 1.0f)) damaged("the least score is not in 0..1");
  if (facts.thresholds > kMostThresholds || section.size() != sizeof(Facts) + facts.thresholds * sizeof(Threshold) ||
      facts.default_threshold >= std::max(facts.thresholds, 1u)) {
    damaged("its thresholds are not as many as it states");
  }
  file.embedding_dim = facts.embedding_dim;
  file.flip = (facts.flags & kFlip) != 0;
  file.upright = (facts.flags & kUpright) != 0;
  file.max_faces = facts.max_faces;
  file.least_score = facts.least_score;
  file.default_threshold = facts.default_threshold;
  std::copy_n(facts.space, file.space.size(), file.space.begin());
  file.thresholds = all_of<Threshold>(section.subspan(sizeof(Facts)), "thresholds");
  for (const Threshold& threshold : file.thresholds) {
    if (!(std::abs(threshold.cosine) <= 1.0) || !(threshold.false_accept_rate > 0.0) ||
        !(threshold.false_accept_rate <= 1.0)) {
      damaged("a threshold is no cosine, or its rate none");
    }
  }
}

}  // namespace

ModelFile read_model_file(std::span<const std::byte> content, bool verify) {
  if (reinterpret_cast<std::uintptr_t>(content.data()) % kAlignment != 0) {
    throw Refusal(POCKETNET_INVALID_ARGUMENT, "the content must begin at a multiple of 64 bytes");
  }
  if (content.size() < kMagic.size() || std::memcmp(content.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Refusal(POCKETNET_BAD_FILE, "not a .pnf file: it does not begin as one (pocketnet export -o model.pnf)");
  }
  if (content.size() < sizeof(Header)) damaged("it ends inside its header");
  const auto& header = at<Header>(content);
  if (header.version != kVersion) {
    throw Refusal(POCKETNET_UNSUPPORTED, "a .pnf file of version " + std::to_string(header.version) +
                                             "; this library reads version " + std::to_string(kVersion));
  }
  if (header.bytes != content.size()) {
    damaged("it has " + std::to_string(content.size()) + " bytes and states " + std::to_string(header.bytes));
  }
  if (header.sections > kMostSections || sizeof(Header) + header.sections * sizeof(Section) > content.size()) {
    damaged("it ends inside its list of sections");
  }
  if (verify && sha256(content.subspan(sizeof(Header))) != header.digest) {
    damaged("its content has another SHA-256 than it states");
  }
  const Sections sections = sections_of(content, header.sections);
  ModelFile file{};
  file.version = header.version;
  read_facts(sections[kFacts], file);
  const std::span<const std::byte> metadata = sections[kMetadata];
  file.metadata = {reinterpret_cast<const char*>(metadata.data()), metadata.size()};
  file.embedder = network_of(sections[kEmbedderProgram], sections[kEmbedderWeights], "a network");
  file.detector = network_of(sections[kDetectorProgram], sections[kDetectorWeights], "a detector");
  if (file.embedder.program.empty()) damaged("its network is missing");
  return file;
}

}  // namespace pnf::library
