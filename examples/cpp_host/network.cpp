#include "network.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <stdexcept>

namespace {

constexpr const char* kMetadata = "pocketnet_fast.json";

// The value of a key whose value is text, or nothing; the file is ours and its keys are unique.
std::string text_of(const std::string& metadata, const std::string& key) {
  const std::string mark = "\"" + key + "\": \"";
  const std::size_t start = metadata.find(mark);
  if (start == std::string::npos) return "";
  const std::size_t value = start + mark.size();
  return metadata.substr(value, metadata.find('"', value) - value);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Why a file does not load: it was read so far that it says itself what it needs, or it is none.
std::runtime_error unloadable(const std::string& path, const std::string& metadata, const std::string& message,
                              const std::string& what) {
  if (metadata.empty()) return std::runtime_error(path + ": is no " + what + " that this LibTorch can read");
  if (message.find("run_plan") != std::string::npos || text_of(metadata, "kernels") == "fused") {
    return std::runtime_error(path + ": calls the fused kernels, needs " + text_of(metadata, "needs") +
                              "; name the library with --ops");
  }
  return std::runtime_error(path + ": cannot be loaded: " + message.substr(0, message.find('\n')));
}

// Reads the metadata of a TorchScript file before anything of it is loaded, so that an error can say what it needs.
std::string script_metadata(const std::string& path) {
  try {
    caffe2::serialize::PyTorchStreamReader reader(path);
    const auto [data, size] = reader.getRecord(std::string("extra/") + kMetadata);
    return {static_cast<const char*>(data.get()), size};
  } catch (const std::exception&) {
    return "";
  }
}

std::string package_metadata(const std::string& path) {
  try {
    return torch::inductor::AOTIModelPackageLoader::load_metadata_from_package(path, "model")[kMetadata];
  } catch (const std::exception&) {
    return "";
  }
}

class ScriptedNetwork final : public Network {
 public:
  explicit ScriptedNetwork(const std::string& path) {
    metadata_ = script_metadata(path);
    try {
      module_ = torch::jit::load(path, torch::kCPU);
    } catch (const std::exception& error) {
      throw unloadable(path, metadata_, error.what(), "TorchScript file");
    }
    module_.eval();
  }

 private:
  std::vector<at::Tensor> run(const at::Tensor& input) override {
    const c10::IValue result = module_.forward({input});
    if (result.isTensor()) return {result.toTensor()};
    std::vector<at::Tensor> tensors;
    for (const c10::IValue& element : result.toTupleRef().elements()) tensors.push_back(element.toTensor());
    return tensors;
  }

  torch::jit::Module module_;
};

class PackagedNetwork final : public Network {
 public:
  explicit PackagedNetwork(const std::string& path) {
    metadata_ = package_metadata(path);
    try {
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
    } catch (const std::exception& error) {
      throw unloadable(path, metadata_, error.what(), "AOTInductor package");
    }
    device_ = text_of(metadata_, "device") == "cuda" ? torch::kCUDA : torch::kCPU;
  }

 private:
  std::vector<at::Tensor> run(const at::Tensor& input) override {
    std::vector<at::Tensor> tensors = loader_->run({input.to(device_)});
    for (at::Tensor& tensor : tensors) tensor = tensor.to(torch::kCPU);
    return tensors;
  }

  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
  torch::DeviceType device_ = torch::kCPU;
};

}  // namespace

at::Tensor Network::forward(const at::Tensor& batch) {
  if (takes_photos()) throw std::runtime_error("the file takes photos, and finds their faces itself");
  const bool pixels = text_of(metadata_, "dtype") == "uint8";
  const c10::IntArrayRef size = batch.sizes();
  const bool fits = size.size() == 4 && (pixels ? size[1] == 112 && size[2] == 112 && size[3] == 3
                                                : size[1] == 3 && size[2] == 112 && size[3] == 112);
  if (!fits || batch.scalar_type() != (pixels ? torch::kUInt8 : torch::kFloat32) || !batch.device().is_cpu()) {
    throw std::runtime_error(std::string("the network takes ") +
                             (pixels ? "uint8 [N, 112, 112, 3]" : "float32 [N, 3, 112, 112]") + " on the CPU");
  }
  return run(batch.contiguous()).at(0);
}

bool Network::takes_photos() const { return text_of(metadata_, "task") == "faces"; }

std::vector<at::Tensor> Network::faces(const at::Tensor& photo) {
  if (!takes_photos()) throw std::runtime_error("the network takes aligned crops, and finds no faces");
  std::vector<at::Tensor> found = run(photo.contiguous());
  if (found.size() != 4) throw std::runtime_error("the file answers otherwise than it says");
  return found;
}

std::unique_ptr<Network> load_network(const std::string& path) {
  if (!std::ifstream(path)) throw std::runtime_error(path + ": cannot be opened");
  std::unique_ptr<Network> network;
  if (ends_with(path, ".pt2")) {
    network = std::make_unique<PackagedNetwork>(path);
  } else {
    network = std::make_unique<ScriptedNetwork>(path);
  }
  if (network->metadata().empty()) throw std::runtime_error(path + ": was not exported by pocketnet_fast");
  return network;
}
