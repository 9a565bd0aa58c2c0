// A network that pocketnet_fast exported, in either of the formats that LibTorch loads without Python.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

class Network {
 public:
  virtual ~Network() = default;
  // One call may be made from each of many threads. The batch is in the form that the metadata state, on the CPU, of
  // any strides; the embeddings are float32 [N, D] on the CPU. Throws std::runtime_error for another batch, which
  // AOTInductor itself would take.
  at::Tensor forward(const at::Tensor& batch);
  const std::string& metadata() const { return metadata_; }

 protected:
  std::string metadata_;

 private:
  virtual at::Tensor run(const at::Tensor& batch) = 0;  // contiguous
};

// Loads a TorchScript file, or by its name (.pt2) an AOTInductor package. Throws std::runtime_error, naming the file.
std::unique_ptr<Network> load_network(const std::string& path);
