#include "hosting/exported_network.h"

#include <ATen/ops/tensor.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <functional>
#include <stdexcept>

#include "hosting/operators.h"

namespace pocketnet::hosting {

namespace {

constexpr const char* kMetadata = "pocketnet_fast.json";
constexpr const char* kCheck = "pocketnet_fast_check.json";

// What a file says of itself, read before anything of it is loaded.
struct Records {
  Metadata metadata;
  std::optional<Check> check;
};

// `record` gives the text of a record, or nothing if the file has none of that name; it throws if the file cannot be read
// at all.
Records read_records(const std::string& path, const std::string& kind,
                     const std::function<std::optional<std::string>(const std::string&)>& record) {
  std::optional<std::string> metadata;
  std::optional<std::string> check;
  try {
    metadata = record(kMetadata);
    check = record(kCheck);
  } catch (const std::exception&) {
    throw std::runtime_error(path + ": is no " + kind + " that this LibTorch can read");
  }
  if (!metadata) throw std::runtime_error(path + ": was not exported by pocketnet_fast");
  try {
    return {parse_metadata(*metadata), check ? std::optional(parse_check(*check)) : std::nullopt};
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": is damaged: " + error.what());
  }
}

Records script_records(const std::string& path) {
  return read_records(path, "TorchScript file", [&](const std::string& name) -> std::optional<std::string> {
    caffe2::serialize::PyTorchStreamReader reader(path);
    if (!reader.hasRecord("extra/" + name)) return std::nullopt;
    const auto [data, size] = reader.getRecord("extra/" + name);
    return std::string(static_cast<const char*>(data.get()), size);
  });
}

Records package_records(const std::string& path) {
  return read_records(path, "AOTInductor package", [&](const std::string& name) -> std::optional<std::string> {
    const auto stated = torch::inductor::AOTIModelPackageLoader::load_metadata_from_package(path, "model");
    const auto found = stated.find(name);
    return found == stated.end() ? std::nullopt : std::optional(found->second);
  });
}

// Loads what the records were read from; `load` does it.
void checked_load(const std::string& path, const Metadata& metadata, const std::function<void()>& load) {
  const bool on_kernels = metadata.kernels == "fused" && metadata.device == "cpu";
  if ((on_kernels || metadata.takes_photos()) && !operators_are_loaded()) {
    throw std::runtime_error(path + ": calls the fused kernels, needs " + metadata.needs +
                             "; name the library with --ops");
  }
  try {
    load();
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": cannot be loaded: " + one_line(error));
  }
}

class ScriptedNetwork final : public ExportedNetwork {
 public:
  ScriptedNetwork(const std::string& path, Records records)
      : ExportedNetwork(std::move(records.metadata), std::move(records.check)) {
    checked_load(path, metadata(), [&] { module_ = torch::jit::load(path, torch::kCPU); });
    module_.eval();
    if (!takes_photos()) return;
    // Files that were written before they had embed() have its submodule, unless they were frozen.
    embed_ = module_.find_method("embed");
    if (!embed_ && module_.hasattr("embedder")) embed_ = module_.attr("embedder").toModule().find_method("forward");
  }

  bool embeds_crops() const override { return !takes_photos() || embed_.has_value(); }

  void limit_faces(std::int64_t most) override {
    if (!takes_photos() || !module_.hasattr("max_faces")) return;
    const std::int64_t own = module_.attr("max_faces").toInt();
    if (own == 0 || own > most) module_.setattr("max_faces", most);
  }

 private:
  std::vector<at::Tensor> run(const at::Tensor& input) override {
    const c10::IValue result = module_.forward({input});
    if (result.isTensor()) return {result.toTensor()};
    std::vector<at::Tensor> tensors;
    for (const c10::IValue& element : result.toTupleRef().elements()) tensors.push_back(element.toTensor());
    return tensors;
  }

  at::Tensor run_embedder(const at::Tensor& crops) override { return embed_.value()({crops}).toTensor(); }

  torch::jit::Module module_;
  std::optional<torch::jit::Method> embed_;
};

class PackagedNetwork final : public ExportedNetwork {
 public:
  PackagedNetwork(const std::string& path, Records records, std::size_t callers)
      : ExportedNetwork(std::move(records.metadata), std::move(records.check)),
        device_(metadata().device == "cuda" ? torch::kCUDA : torch::kCPU) {
    checked_load(path, metadata(), [&] {
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path, "model", false, callers);
    });
  }

  bool embeds_crops() const override { return !takes_photos(); }

  void limit_faces(std::int64_t) override {}

 private:
  std::vector<at::Tensor> run(const at::Tensor& input) override {
    std::vector<at::Tensor> tensors = loader_->run({input.to(device_)});
    for (at::Tensor& tensor : tensors) tensor = tensor.to(torch::kCPU);
    return tensors;
  }

  at::Tensor run_embedder(const at::Tensor&) override { throw std::logic_error("a package has no embedder"); }

  torch::DeviceType device_;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

// [3] as [1, 3, 1, 1]
at::Tensor per_channel(const std::array<float, 3>& values) {
  return at::tensor({values[0], values[1], values[2]}).view({1, 3, 1, 1});
}

void check_crops(const at::Tensor& rgb) {
  const bool fits = rgb.dim() == 4 && rgb.size(1) == kCropSide && rgb.size(2) == kCropSide && rgb.size(3) == 3;
  if (!fits || rgb.scalar_type() != at::kByte || !rgb.device().is_cpu()) {
    throw std::runtime_error("aligned crops are uint8 [N, 112, 112, 3] on the CPU");
  }
}

at::Tensor of_length_one(const at::Tensor& embeddings) {
  return embeddings / embeddings.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
}

}  // namespace

at::Tensor ExportedNetwork::forward(const at::Tensor& batch) {
  if (takes_photos()) throw std::runtime_error("the file takes photos, and finds their faces itself");
  const c10::InferenceMode guard;
  const bool pixels = metadata_.dtype == "uint8";
  const c10::IntArrayRef size = batch.sizes();
  const bool fits = size.size() == 4 && (pixels ? size[1] == kCropSide && size[2] == kCropSide && size[3] == 3
                                                : size[1] == 3 && size[2] == kCropSide && size[3] == kCropSide);
  if (!fits || batch.scalar_type() != (pixels ? torch::kUInt8 : torch::kFloat32) || !batch.device().is_cpu()) {
    throw std::runtime_error(std::string("the network takes ") +
                             (pixels ? "uint8 [N, 112, 112, 3]" : "float32 [N, 3, 112, 112]") + " on the CPU");
  }
  return run(batch.contiguous()).at(0);
}

at::Tensor ExportedNetwork::input_of(const at::Tensor& rgb) const {
  const c10::InferenceMode guard;
  check_crops(rgb);
  const at::Tensor crops = metadata_.color == "bgr" ? rgb.flip({3}) : rgb;
  if (metadata_.dtype == "uint8") return crops.contiguous();
  const at::Tensor planar = crops.permute({0, 3, 1, 2}).to(at::kFloat).div(255.0);
  return planar.sub(per_channel(metadata_.mean)).div(per_channel(metadata_.std)).contiguous();
}

at::Tensor ExportedNetwork::embed_crops(const at::Tensor& rgb) {
  if (!embeds_crops()) {
    throw std::runtime_error(
        "the file takes photos, and its embedder cannot be called alone; that of a TorchScript file (.pt) of photos "
        "can");
  }
  const c10::InferenceMode guard;
  const at::Tensor input = input_of(rgb);
  return of_length_one(takes_photos() ? run_embedder(input) : forward(input)).contiguous();
}

FoundFaces ExportedNetwork::faces(const at::Tensor& rgb) {
  if (!takes_photos()) throw std::runtime_error("the network takes aligned crops, and finds no faces");
  const c10::InferenceMode guard;
  if (rgb.dim() != 3 || rgb.size(2) != 3 || rgb.scalar_type() != at::kByte || !rgb.device().is_cpu()) {
    throw std::runtime_error("a photo is uint8 [H, W, 3] on the CPU");
  }
  const at::Tensor photo = metadata_.color == "bgr" ? rgb.flip({2}) : rgb;
  const std::vector<at::Tensor> found = run(photo.contiguous());
  if (found.size() != 4) throw std::runtime_error("the file answers otherwise than it says");
  return {found[0], found[1], found[2], found[3]};
}

std::unique_ptr<ExportedNetwork> load_network(const std::string& path, std::size_t callers) {
  if (!std::ifstream(path)) throw std::runtime_error(path + ": cannot be opened");
  if (path.ends_with(".pt2")) return std::make_unique<PackagedNetwork>(path, package_records(path), callers);
  return std::make_unique<ScriptedNetwork>(path, script_records(path));
}

}  // namespace pocketnet::hosting
