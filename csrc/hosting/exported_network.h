// A network, or a whole way from photos to embeddings, that pocketnet_fast exported in either of the formats that LibTorch
// loads without Python. Every function may be called from many threads at once, and needs no guard around it.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hosting/check_record.h"
#include "hosting/metadata.h"
#include "hosting/one_line.h"

namespace pocketnet::hosting {

inline constexpr std::int64_t kCropSide = 112;

// The faces of a photo, the most prominent first: float32 on the CPU.
struct FoundFaces {
  at::Tensor boxes;       // [N, 4]: left, top, width, height, in pixels of the photo
  at::Tensor landmarks;   // [N, 5, 2]: x, y
  at::Tensor scores;      // [N]
  at::Tensor embeddings;  // [N, D], of length 1
};

// Wrong tensors, and what goes wrong inside a file, are std::exception; one_line() says why.
class ExportedNetwork {
 public:
  virtual ~ExportedNetwork() = default;

  const Metadata& metadata() const { return metadata_; }
  // Nothing for files that were written before there were checks; check_cosine() carries it out.
  const std::optional<Check>& check() const { return check_; }
  bool takes_photos() const { return metadata_.takes_photos(); }

  // Of a file that takes crops: embeddings float32 [N, D] on the CPU, of any length, of a batch in the form that the
  // metadata state, on the CPU, of any strides. Another batch, which AOTInductor itself would take, is an error.
  at::Tensor forward(const at::Tensor& batch);

  // What forward() takes of aligned crops uint8 RGB [N, 112, 112, 3]: floats normalised, channels swapped, as the
  // metadata say.
  at::Tensor input_of(const at::Tensor& rgb) const;

  // Whether embed_crops() is there: not of a package (.pt2) that takes photos, whose embedder cannot be called alone, nor
  // of a TorchScript file of photos and ATen operators that was written before it could.
  virtual bool embeds_crops() const = 0;

  // Embeddings float32 [N, D] of length 1, on the CPU, of aligned crops uint8 RGB [N, 112, 112, 3], of whatever input
  // the file takes; those of a file that takes photos are as it embeds the faces that it finds, the mirror image added if
  // its metadata say so.
  at::Tensor embed_crops(const at::Tensor& rgb);

  // Of a TorchScript file that takes photos and embeds all faces or more than `most`: embeds the most prominent ones alone.
  // To be called before the first photo. Other files stay as they are.
  virtual void limit_faces(std::int64_t most) = 0;

  // The faces of a photo uint8 RGB [H, W, 3], by a file that takes photos.
  FoundFaces faces(const at::Tensor& rgb);

 protected:
  ExportedNetwork(Metadata metadata, std::optional<Check> check)
      : metadata_(std::move(metadata)), check_(std::move(check)) {}

 private:
  virtual std::vector<at::Tensor> run(const at::Tensor& input) = 0;  // contiguous
  virtual at::Tensor run_embedder(const at::Tensor& crops) = 0;      // of a file that takes photos, which has one

  Metadata metadata_;
  std::optional<Check> check_;
};

// Loads a TorchScript file, which takes any number of calls at once, or by its name (.pt2) an AOTInductor package, which
// takes `callers` at once and lets others wait. Throws std::runtime_error, naming the file: it cannot be opened, is none of pocketnet_fast, is
// damaged, or needs operators that are not loaded (operators.h).
std::unique_ptr<ExportedNetwork> load_network(const std::string& path, std::size_t callers = 1);

}  // namespace pocketnet::hosting
