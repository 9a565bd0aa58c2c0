// The exported file in use, and how another takes its place.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "embedding_space.h"
#include "hosting/calibration.h"
#include "hosting/exported_network.h"

namespace pocketnet::server {

struct LoadedModel {
  std::unique_ptr<hosting::ExportedNetwork> network;
  std::optional<hosting::Calibration> calibration;  // that holds for what the file computes
  EmbeddingSpace space;
  std::string isa;                     // of the kernels; empty where the file calls none of ours
  std::optional<double> check_cosine;  // of the embedding that the file carries to the one computed here

  // What answers say of it, and what /v1/model says.
  nlohmann::json brief() const;
  nlohmann::json description() const;

  // The threshold for a rate, or for the file's own. Throws Problem where the file has none.
  hosting::CalibratedPoint point(std::optional<double> far) const;
};

using ModelPointer = std::shared_ptr<const LoadedModel>;

struct ModelOptions {
  std::string path;
  std::size_t callers = 1;     // threads that are inside at a time
  std::int64_t max_faces = 0;  // of a photo, the most prominent ones; 0: all
};

// Loads a file, computes with it once, and compares with what the file carries for that. Throws std::runtime_error, in
// one line that names the file.
ModelPointer load_model(const ModelOptions& options);

class ModelSlot {
 public:
  // Says why a model of this space cannot be used now, or nothing.
  using Objection = std::function<std::optional<std::string>(const EmbeddingSpace&)>;

  ModelSlot(ModelOptions options, ModelPointer first) : options_(std::move(options)), current_(std::move(first)) {}

  ModelPointer current() const;

  // Loads the file again and puts it in the place of the one in use, whose requests go on with it. Throws Problem, and
  // then the old one stays: another reload is going on, the file is refused, or `objection` says something.
  ModelPointer reload(const Objection& objection);

 private:
  const ModelOptions options_;
  std::mutex reloading_;
  mutable std::mutex mutex_;
  ModelPointer current_;
};

}  // namespace pocketnet::server
