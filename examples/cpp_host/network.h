// A network that pocketnet_fast exported, in either of the formats that LibTorch loads without Python.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

class Network {
 public:
  virtual ~Network() = default;
  // One call may be made from each of many threads. The batch is in the form that the metadata state, on the CPU, of
  // any strides; the embeddings are float32 [N, D] on the CPU. Throws std::runtime_error for another batch, which
  // AOTInductor itself would take.
  at::Tensor forward(const at::Tensor& batch);
  // What a file finds in a photo, uint8 [H, W, 3] in the colour order that the metadata state: float32 boxes [N, 4],
  // landmarks [N, 5, 2], scores [N] and embeddings [N, D] of length 1. May be called as forward(). Throws
  // std::runtime_error where the file takes crops.
  std::vector<at::Tensor> faces(const at::Tensor& photo);
  bool takes_photos() const;
  const std::string& metadata() const { return metadata_; }

 protected:
  std::string metadata_;

 private:
  virtual std::vector<at::Tensor> run(const at::Tensor& input) = 0;  // contiguous
};

// Loads a TorchScript file, or by its name (.pt2) an AOTInductor package. Throws std::runtime_error, naming the file.
std::unique_ptr<Network> load_network(const std::string& path);
