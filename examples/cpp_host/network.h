// A network that pocketnet_fast exported, in either of the formats that LibTorch loads without Python.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

class Network {
 public:
  virtual ~Network() = default;
  // One call may be made from each of many threads. The batch is in the form that the metadata state, on the CPU; so
  // are the embeddings, float32 [N, D].
  virtual at::Tensor forward(const at::Tensor& batch) = 0;
  const std::string& metadata() const { return metadata_; }

 protected:
  std::string metadata_;
};

// Loads a TorchScript file, or by its name (.pt2) an AOTInductor package. Throws std::runtime_error, naming the file.
std::unique_ptr<Network> load_network(const std::string& path);
