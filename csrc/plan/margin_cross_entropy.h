// The margin softmax over all classes, on several threads; kernels/margin_cross_entropy has the equations.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pnf {

struct MarginInput {
  int samples, dims;  // samples may be 0
  std::ptrdiff_t classes;
  const float* embedding;     // [samples][dims]
  const void* kernel;         // [dims][classes]
  bool bf16;                  // the kernel, else float32
  const std::int64_t* label;  // [samples]: a class, or -1 for one that the kernel does not hold
  float scale;
  bool bf16_products = false;  // of pairs of bfloat16, where the instruction set in use has them; sums stay float32
};

// others [samples]: log sum exp of scale * cosine over all classes but the label (-inf without any).
// cosine [samples]: the label's cosine, 0 where the label is -1.
//
// Results depend on `threads`, by the order of sums, and on nothing else: not on how many threads there were in the end.
// Scratch grows with samples x dims x threads, never with the classes. Throws std::invalid_argument for a label that is no class, or an embedding or a column
// of the kernel whose length is not finite; std::runtime_error when the forced instruction set is unavailable;
// std::bad_alloc.
void margin_forward(const MarginInput& input, int threads, double* others, double* cosine);

// Gradients of sum_n (grad_others[n] * others[n] + grad_cosine[n] * cosine[n]), with `others` as margin_forward gave it;
// grad_kernel has the kernel's type and layout.
void margin_backward(const MarginInput& input, int threads, const double* others, const double* grad_others,
                     const double* grad_cosine, float* grad_embedding, void* grad_kernel);

}  // namespace pnf
