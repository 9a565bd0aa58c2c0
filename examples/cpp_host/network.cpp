#include "network.h"

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <fstream>
#include <stdexcept>

namespace {

constexpr const char* kMetadata = "pocketnet_fast.json";

bool mentions_fused_kernels(const std::string& message) { return message.find("run_plan") != std::string::npos; }

std::runtime_error unloadable(const std::string& path, const std::string& message, const std::string& what) {
  return std::runtime_error(path + (mentions_fused_kernels(message)
                                        ? ": calls the fused kernels; name libpnf_ops.so with --ops"
                                        : ": is no " + what + " that this LibTorch can read"));
}

class ScriptedNetwork final : public Network {
 public:
  explicit ScriptedNetwork(const std::string& path) {
    torch::jit::ExtraFilesMap extra = {{kMetadata, ""}};
    try {
      module_ = torch::jit::load(path, torch::kCPU, extra);
    } catch (const c10::Error& error) {
      throw unloadable(path, error.what(), "TorchScript file");
    }
    module_.eval();
    metadata_ = extra[kMetadata];
  }

  at::Tensor forward(const at::Tensor& batch) override { return module_.forward({batch}).toTensor(); }

 private:
  torch::jit::Module module_;
};

class PackagedNetwork final : public Network {
 public:
  explicit PackagedNetwork(const std::string& path) {
    try {
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
      metadata_ = loader_->get_metadata()[kMetadata];
    } catch (const std::exception& error) {
      throw unloadable(path, error.what(), "AOTInductor package");
    }
    device_ = metadata_.find("\"device\": \"cuda\"") == std::string::npos ? torch::kCPU : torch::kCUDA;
  }

  at::Tensor forward(const at::Tensor& batch) override {
    return loader_->run({batch.to(device_).contiguous()}).at(0).to(torch::kCPU);
  }

 private:
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
  torch::DeviceType device_ = torch::kCPU;
};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

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
