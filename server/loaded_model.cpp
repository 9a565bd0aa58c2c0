#include "loaded_model.h"

#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cmath>
#include <stdexcept>
#include <utility>

#include "hosting/check.h"
#include "problem.h"

namespace pocketnet::server {
namespace {

// Which kernels run, by libpnf_ops.so; empty where it is not loaded.
std::string isa_of(const hosting::Metadata& metadata) {
  using Isa = const char*(int);
  if (metadata.kernels != "fused" && !metadata.takes_photos()) return "";
  auto* isa = reinterpret_cast<Isa*>(::dlsym(RTLD_DEFAULT, "pnf_compiled_isa"));
  return isa == nullptr ? "" : isa(metadata.precision == "bf16" ? 1 : 0);
}

// The thresholds of a file hold for embeddings as they were when it was calibrated.
std::optional<hosting::Calibration> fitting_calibration(const hosting::Metadata& metadata) {
  std::optional<hosting::Calibration> calibration = hosting::calibration_of(metadata);
  if (calibration && calibration->flip != metadata.adds_mirror_image) return std::nullopt;
  return calibration;
}

void warm_up(hosting::ExportedNetwork& network) {
  if (network.embeds_crops()) network.embed_crops(at::zeros({1, hosting::kCropSide, hosting::kCropSide, 3}, at::kByte));
  if (network.takes_photos()) network.faces(at::zeros({480, 640, 3}, at::kByte));
}

}  // namespace

nlohmann::json LoadedModel::brief() const {
  return {
      {"name", space.model}, {"weights_sha256", space.weights_sha256}, {"precision", network->metadata().precision}};
}

nlohmann::json LoadedModel::description() const {
  nlohmann::json json = brief();
  json["isa"] = isa;
  json["task"] = network->takes_photos() ? "faces" : "crops";
  json["dimensions"] = space.dimensions;
  json["default_far"] = calibration ? nlohmann::json(calibration->default_far) : nlohmann::json(nullptr);
  json["thresholds"] = nlohmann::json::array();
  if (calibration) {
    for (const hosting::CalibratedPoint& point : calibration->points) {
      json["thresholds"].push_back({{"far", point.far}, {"threshold", point.threshold}});
    }
  }
  json["metadata"] = network->metadata().raw;
  return json;
}

hosting::CalibratedPoint LoadedModel::point(std::optional<double> far) const {
  if (!calibration) {
    throw Problem(ProblemKind::kUnavailable, "The model carries no thresholds, so that nothing can be decided.");
  }
  try {
    return calibration->at(far);
  } catch (const std::runtime_error& error) {
    throw Problem(ProblemKind::kBadRequest, error.what());
  }
}

ModelPointer load_model(const ModelOptions& options) {
  const c10::InferenceMode guard;
  auto model = std::make_shared<LoadedModel>();
  model->network = hosting::load_network(options.path, options.callers);
  hosting::ExportedNetwork& network = *model->network;
  const hosting::Metadata& metadata = network.metadata();
  if (options.max_faces > 0 && network.takes_photos()) network.limit_faces(options.max_faces);
  try {
    warm_up(network);
    model->calibration = fitting_calibration(metadata);
    if (const std::optional<hosting::Check>& check = network.check()) {
      model->check_cosine = hosting::check_cosine(network);
      if (!(*model->check_cosine >= check->least_cosine)) {
        throw std::runtime_error("computes another embedding here than the one it carries: cosine " +
                                 std::to_string(*model->check_cosine));
      }
    }
  } catch (const std::exception& error) {
    throw std::runtime_error(options.path + ": " + hosting::one_line(error));
  }
  model->space = {metadata.model, metadata.weights_sha256, metadata.adds_mirror_image, metadata.embedding_dim};
  model->isa = isa_of(metadata);
  return model;
}

ModelPointer ModelSlot::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

ModelPointer ModelSlot::reload(const Objection& objection) {
  const std::unique_lock reloading(reloading_, std::try_to_lock);
  if (!reloading) throw Problem(ProblemKind::kConflict, "The model is being loaded already.");
  ModelPointer loaded;
  try {
    loaded = load_model(options_);
  } catch (const std::exception& error) {
    // Where the file lies is nothing for clients.
    std::string why = error.what();
    const std::string place = options_.path + ": ";
    if (why.starts_with(place)) why.erase(0, place.size());
    throw Problem(ProblemKind::kUnreadable, "The model in use stays; the file " + why + ".");
  }
  if (const std::optional<std::string> reason = objection(loaded->space)) {
    throw Problem(ProblemKind::kConflict, "The model in use stays: " + *reason);
  }
  {
    const std::lock_guard lock(mutex_);
    current_ = loaded;
  }
#ifdef __GLIBC__
  // Loading while others allocate leaves holes: without this, a process is larger after each of many reloads.
  malloc_trim(0);
#endif
  return loaded;
}

}  // namespace pocketnet::server
