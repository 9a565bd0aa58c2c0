#include "library/model.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "faces/detector_network.h"
#include "library/status.h"

namespace {

using pnf::Program;
using pnf::library::NetworkFile;
using pnf::library::Refusal;

constexpr std::size_t kMostWorkingBytes = std::size_t{512} << 20;
constexpr std::uint32_t kMostSide = 512, kMostSteps = 4096;

template <typename T>
T or_default(T value, T standard) {
  return value == 0 ? standard : value;
}

[[noreturn]] void beyond(const char* what, std::size_t value, const char* limit, std::size_t most) {
  throw Refusal(POCKETNET_LIMIT,
                std::string(what) + " " + std::to_string(value) + "; " + limit + " is " + std::to_string(most));
}

// Throws Refusal where the words are no program, and where they ask for more than the limits.
void decode_network(const NetworkFile& file, const pocketnet_open_options& options, std::size_t max_working_bytes,
                    Program& program) {
  try {
    pnf::decode(file.program, file.weights.size(), program);
  } catch (const std::invalid_argument& problem) {
    throw Refusal(POCKETNET_BAD_FILE, problem.what());
  }
  const std::uint32_t most_steps = or_default(options.max_steps, kMostSteps);
  if (program.steps.size() > most_steps) beyond("steps of a network:", program.steps.size(), "max_steps", most_steps);
  if (program.lane_bytes() > max_working_bytes) {
    beyond("bytes of working memory of a network:", program.lane_bytes(), "max_working_bytes", max_working_bytes);
  }
}

const pnf::ChosenKernels& kernels_named(const char* isa) {
  try {
    return pnf::kernels_of(isa == nullptr ? "" : isa);
  } catch (const std::runtime_error& problem) {
    throw Refusal(POCKETNET_UNSUPPORTED, problem.what());
  }
}

bool ends_in_maps(const Program& program) { return program.steps.back().kind == pnf::StepKind::kMap; }

}  // namespace

pocketnet_model::pocketnet_model(pnf::library::Content bytes, const pocketnet_open_options& options)
    : content(std::move(bytes)),
      file(pnf::library::read_model_file(content.bytes(), options.unverified == 0)),
      kernels(kernels_named(options.isa)),
      max_working_bytes(or_default(options.max_working_bytes, kMostWorkingBytes)) {
  decode_network(file.embedder, options, max_working_bytes, embedder[0]);
  embedder[1] = embedder[0];
  embedder[1].bgr = !embedder[0].bgr;
  const Program& crops = embedder[0];
  const std::uint32_t most_side = or_default(options.max_side, kMostSide);
  if (static_cast<std::uint32_t>(crops.height) > most_side)
    beyond("side of a crop:", crops.height, "max_side", most_side);
  if (crops.height != crops.width || ends_in_maps(crops) ||
      static_cast<std::uint32_t>(crops.results) != file.embedding_dim) {
    throw Refusal(POCKETNET_BAD_FILE, "a damaged .pnf file: its network makes no embeddings of square crops");
  }
  if (!takes_photos()) return;
  Program detector;
  decode_network(file.detector, options, max_working_bytes, detector);
  if (detector.unit == 0 || !ends_in_maps(detector) ||
      detector.results != pnf::size_of_maps(detector.height, detector.width)) {
    throw Refusal(POCKETNET_BAD_FILE, "a damaged .pnf file: its detector finds no faces");
  }
}
