#include "plan/margin_cross_entropy.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "plan/thread_pool.h"
#include "plan/workspace.h"

namespace pnf {
namespace {

// Rows of embeddings a power of two of bytes apart would share a few sets of the first-level cache.
constexpr int kRowSkew = 16;

void check_labels(const MarginInput& input) {
  for (int n = 0; n < input.samples; ++n) {
    if (input.label[n] < -1 || input.label[n] >= input.classes) {
      throw std::invalid_argument("labels must lie in 0.." + std::to_string(input.classes - 1) + "; sample " +
                                  std::to_string(n) + " has " + std::to_string(input.label[n]));
    }
  }
}

// What all threads read.
class Prepared {
 public:
  explicit Prepared(const MarginInput& input)
      : kernels_(input.bf16_products ? static_cast<const MarginKernels&>(bf16_kernels()) : kernels()),
        inverse_norm_(input.samples) {
    check_labels(input);
    const std::ptrdiff_t stride = margin_padded_dims(input.dims) + kRowSkew;
    float* rows = unit_rows_.reserve(input.samples * stride);
    for (int n = 0; n < input.samples; ++n) {
      const float* embedding = input.embedding + static_cast<std::ptrdiff_t>(n) * input.dims;
      double square = 0.0;
      for (int d = 0; d < input.dims; ++d) square += static_cast<double>(embedding[d]) * embedding[d];
      const double length = std::sqrt(square);
      if (!std::isfinite(length)) {
        throw std::invalid_argument("embedding must be finite; row " + std::to_string(n) + " is not");
      }
      inverse_norm_[n] = length > kMarginEpsilon ? 1.0 / length : 0.0;
      for (int d = 0; d < input.dims; ++d) rows[n * stride + d] = static_cast<float>(embedding[d] * inverse_norm_[n]);
      if (input.label[n] >= 0) labelled_rows_.push_back(n);
    }
    std::stable_sort(labelled_rows_.begin(), labelled_rows_.end(),
                     [&](int a, int b) { return input.label[a] < input.label[b]; });
    head_ = {input.samples,
             input.dims,
             input.classes,
             input.embedding,
             rows,
             stride,
             inverse_norm_.data(),
             input.kernel,
             input.bf16,
             input.scale,
             static_cast<int>(labelled_rows_.size()),
             labelled_rows_.data(),
             input.label};
  }
  const MarginKernels& kernels_in_use() const { return kernels_; }
  const MarginHead& head() const { return head_; }

 private:
  const MarginKernels& kernels_;
  Floats unit_rows_;
  std::vector<double> inverse_norm_;
  std::vector<int> labelled_rows_;
  MarginHead head_ = {};
};

// Several for each thread, so that no thread waits long for another's last one; one for a thread alone.
int parts_of(const MarginInput& input, int threads) {
  constexpr std::ptrdiff_t kPartsPerThread = 4;
  const std::ptrdiff_t size = margin_block(input.dims), blocks = (input.classes + size - 1) / size;
  return static_cast<int>(std::min(threads == 1 ? 1 : kPartsPerThread * threads, blocks));
}

// Calls body(part, first class, end, scratch) for each part, on up to `threads` threads that take them as they come. body
// returns a bad column, or -1.
template <typename Body>
class Parts {
 public:
  Parts(const Prepared& prepared, int threads, int parts, Body body)
      : head_(prepared.head()), body_(body), bad_(parts, -1), scratch_(std::min(threads, parts)) {
    const bool pairs = prepared.kernels_in_use().margin_pairs;
    for (Floats& floats : scratch_) floats.reserve(margin_scratch(head_.samples, head_.dims, pairs));
  }

  void run() {
    run_together(
        static_cast<int>(scratch_.size()),
        [](void* context, Member& member) noexcept { static_cast<Parts*>(context)->take_part(member); }, this);
    for (const std::ptrdiff_t column : bad_) {
      if (column >= 0) {
        throw std::invalid_argument("kernel must be finite; column " + std::to_string(column) + " is not");
      }
    }
  }

 private:
  void take_part(Member& member) {
    const std::ptrdiff_t size = margin_block(head_.dims), blocks = (head_.classes + size - 1) / size;
    const int parts = static_cast<int>(bad_.size());
    for (int part = next_.fetch_add(1); part < parts; part = next_.fetch_add(1)) {
      const std::ptrdiff_t begin = blocks * part / parts * size;
      const std::ptrdiff_t end = std::min(blocks * (part + 1) / parts * size, head_.classes);
      bad_[part] = body_(part, begin, end, scratch_[member.index].reserve(0));
    }
  }

  const MarginHead& head_;
  Body body_;
  std::vector<std::ptrdiff_t> bad_;
  std::vector<Floats> scratch_;  // of each thread
  std::atomic<int> next_{0};
};

}  // namespace

void margin_forward(const MarginInput& input, int threads, double* others, double* cosine) {
  if (input.samples == 0) return;
  const Prepared prepared(input);
  const MarginHead& head = prepared.head();
  const int parts = parts_of(input, threads);
  const std::size_t samples = input.samples;
  std::vector<float> row_max(parts * samples);
  std::vector<double> row_sum(parts * samples);
  std::fill(cosine, cosine + samples, 0.0);
  Parts(prepared, threads, parts, [&](int part, std::ptrdiff_t begin, std::ptrdiff_t end, float* scratch) {
    const MarginForward out = {row_max.data() + part * samples, row_sum.data() + part * samples, cosine};
    return prepared.kernels_in_use().margin_forward(head, out, begin, end, scratch);
  }).run();
  for (std::size_t n = 0; n < samples; ++n) {
    if (input.classes == 1 && input.label[n] == 0) {
      others[n] = -std::numeric_limits<double>::infinity();
      continue;
    }
    double largest = row_max[n];
    for (int part = 1; part < parts; ++part) largest = std::max<double>(largest, row_max[part * samples + n]);
    double sum = 0.0;
    for (int part = 0; part < parts; ++part) {
      sum += row_sum[part * samples + n] * std::exp(row_max[part * samples + n] - largest);
    }
    others[n] = largest + std::log(sum);
  }
}

void margin_backward(const MarginInput& input, int threads, const double* others, const double* grad_others,
                     const double* grad_cosine, float* grad_embedding, void* grad_kernel) {
  if (input.samples == 0) {
    std::memset(grad_kernel, 0, input.dims * input.classes * (input.bf16 ? sizeof(std::uint16_t) : sizeof(float)));
    return;
  }
  const Prepared prepared(input);
  const MarginHead& head = prepared.head();
  const int parts = parts_of(input, threads);
  const std::ptrdiff_t samples = input.samples, dims = input.dims, padded = margin_padded_dims(input.dims);
  std::vector<float> row_shift(samples), row_scale(samples);
  for (std::ptrdiff_t n = 0; n < samples; ++n) {
    if (others[n] == -std::numeric_limits<double>::infinity()) continue;
    row_shift[n] = static_cast<float>(others[n]);
    row_scale[n] = static_cast<float>(grad_others[n] * input.scale * std::exp(row_shift[n] - others[n]));
  }
  std::vector<Floats> row_sums(parts);
  for (Floats& sums : row_sums) sums.reserve(samples * padded);
  std::fill(grad_embedding, grad_embedding + samples * dims, 0.0f);
  Parts(prepared, threads, parts, [&](int part, std::ptrdiff_t begin, std::ptrdiff_t end, float* scratch) {
    const MarginBackward args = {row_shift.data(), row_scale.data(),          grad_cosine,
                                 grad_kernel,      row_sums[part].reserve(0), grad_embedding};
    return prepared.kernels_in_use().margin_backward(head, args, begin, end, scratch);
  }).run();
  for (std::ptrdiff_t n = 0; n < samples; ++n) {
    float* sum = row_sums[0].reserve(0) + n * padded;
    for (int part = 1; part < parts; ++part) {
      const float* other = row_sums[part].reserve(0) + n * padded;
      for (std::ptrdiff_t d = 0; d < dims; ++d) sum[d] += other[d];
    }
    const float* unit = head.unit_rows + n * head.row_stride;
    double parallel = 0.0;
    for (std::ptrdiff_t d = 0; d < dims; ++d) parallel += static_cast<double>(sum[d]) * unit[d];
    for (std::ptrdiff_t d = 0; d < dims; ++d) {
      const double total = sum[d] - parallel * unit[d] + grad_embedding[n * dims + d];
      grad_embedding[n * dims + d] = static_cast<float>(total * head.inverse_norm[n]);
    }
  }
}

}  // namespace pnf
