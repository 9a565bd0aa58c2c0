// The margin softmax kernels. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
//
// A block of the kernel's columns is normalised into panels of kTile classes, [panel][dim][kTile], so that the
// cosines are a register-tiled product with embedded broadcasts. In the backward pass the same tile computes the two
// other products: over the samples for the kernel's gradient, and over the classes, with the transposed block, for
// the embedding's.
#include "kernels/margin_cross_entropy/margin_cross_entropy.h"

#include "kernels/layout.h"
#include "kernels/margin_cross_entropy/scratch.h"
// clang-format off
#include "kernels/margin_cross_entropy/exp.inl"
#include "kernels/margin_cross_entropy/product.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

static_assert(kMarginPanel % kTile == 0);

// Takes the label's class out of the running maximum and of every sum.
constexpr float kMasked = -3e38f;

PNF_INLINE float from_bf16(std::uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16);
}

PNF_INLINE std::uint16_t to_bf16(float value) {
  const auto bits = __builtin_bit_cast(std::uint32_t, value);
  if (value != value) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

PNF_INLINE float kernel_at(const MarginHead& head, int dim, std::ptrdiff_t column) {
  const std::ptrdiff_t at = dim * head.classes + column;
  return head.bf16 ? from_bf16(static_cast<const std::uint16_t*>(head.kernel)[at])
                   : static_cast<const float*>(head.kernel)[at];
}

struct Block {
  std::ptrdiff_t first;  // class
  int classes, panels;
  int panel_floats;
  float* columns;     // [panels][padded dims][kTile]: normalised, zero beside the kernel
  float* inverse;     // [panels][kTile]: 1 / length of the column, or 0
  float* transposed;  // [padded dims / kTile][panels * kTile][kTile]
  float* gradient;    // as columns
  float* logits;      // [panels][samples of the chunk][kTile]
};

Block block_in(const MarginHead& head, float* scratch) {
  const int most = margin_block_of(head.dims), padded = margin_padded(head.dims);
  Block block = {};
  block.panel_floats = padded * kTile;
  block.columns = scratch;
  block.transposed = block.columns + most * padded;
  block.gradient = block.transposed + most * padded;
  block.inverse = block.gradient + most * padded;
  block.logits = block.inverse + most;
  return block;
}

PNF_INLINE void load_columns(const MarginHead& head, int dim, std::ptrdiff_t first, int count, float* out) {
  const std::ptrdiff_t at = dim * head.classes + first;
  if (head.bf16) {
    const std::uint16_t* in = static_cast<const std::uint16_t*>(head.kernel) + at;
    for (int j = 0; j < count; ++j) out[j] = from_bf16(in[j]);
  } else if (count == kTile) {
    const float* in = static_cast<const float*>(head.kernel) + at;
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) store(out + v * kLanes, load(in + v * kLanes));
  } else {
    const float* in = static_cast<const float*>(head.kernel) + at;
    for (int j = 0; j < count; ++j) out[j] = in[j];
  }
  for (int j = count; j < kTile; ++j) out[j] = 0.0f;
}

PNF_INLINE void store_columns(const MarginHead& head, const float* in, int dim, std::ptrdiff_t first, int count,
                              void* kernel) {
  const std::ptrdiff_t at = dim * head.classes + first;
  if (head.bf16) {
    std::uint16_t* out = static_cast<std::uint16_t*>(kernel) + at;
    for (int j = 0; j < count; ++j) out[j] = to_bf16(in[j]);
  } else if (count == kTile) {
    float* out = static_cast<float*>(kernel) + at;
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) store(out + v * kLanes, load(in + v * kLanes));
  } else {
    float* out = static_cast<float*>(kernel) + at;
    for (int j = 0; j < count; ++j) out[j] = in[j];
  }
}

PNF_INLINE int panel_classes(const Block& block, int panel) {
  const int left = block.classes - panel * kTile;
  return left < kTile ? left : kTile;
}

// Returns -1, or a class whose column has no finite length.
std::ptrdiff_t load_block(const MarginHead& head, std::ptrdiff_t first, std::ptrdiff_t end, Block& block) {
  const int most = margin_block_of(head.dims);
  block.first = first;
  block.classes = end - first < most ? static_cast<int>(end - first) : most;
  block.panels = (block.classes + kTile - 1) / kTile;
  for (int panel = 0; panel < block.panels; ++panel) {
    float* columns = block.columns + panel * block.panel_floats;
    const int count = panel_classes(block, panel);
    Vec square[kTileVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) square[v] = splat(0.0f);
    for (int dim = 0; dim < head.dims; ++dim) {
      float* out = columns + dim * kTile;
      load_columns(head, dim, first + panel * kTile, count, out);
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) {
        const Vec w = load(out + v * kLanes);
        square[v] = fma(w, w, square[v]);
      }
    }
    for (int i = head.dims * kTile; i < block.panel_floats; i += kLanes) store(columns + i, splat(0.0f));
    float* inverse = block.inverse + panel * kTile;
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) store(inverse + v * kLanes, square[v]);
    for (int j = 0; j < kTile; ++j) {
      const double length = __builtin_sqrt(static_cast<double>(inverse[j]));
      if (!(length <= 3e38)) return first + panel * kTile + j;
      inverse[j] = length > kMarginEpsilon ? static_cast<float>(1.0 / length) : 0.0f;
    }
    for (int dim = 0; dim < head.dims; ++dim) {
      float* out = columns + dim * kTile;
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) {
        store(out + v * kLanes, mul(load(out + v * kLanes), load(inverse + v * kLanes)));
      }
    }
  }
  return -1;
}

// log2(kLanes) rounds of interleaving the upper with the lower half of the rows.
PNF_INLINE void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

void transpose_block(const Block& block, int padded) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(block.panels) * kTile * kTile;
  for (int panel = 0; panel < block.panels; ++panel) {
    const float* columns = block.columns + panel * block.panel_floats;
    for (int dim = 0; dim < padded; dim += kLanes) {
      float* out =
          block.transposed + dim / kTile * stride + static_cast<std::ptrdiff_t>(panel) * kTile * kTile + dim % kTile;
      for (int lane = 0; lane < kTile; lane += kLanes) {
        Vec rows[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = load(columns + (dim + i) * kTile + lane);
        transpose(rows);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(out + (lane + i) * kTile, rows[i]);
      }
    }
  }
}

// The samples [begin, end) of head.labelled_rows whose label lies in the block; starts at the last block's end.
struct Labels {
  int begin, end;
};

Labels labels_from(const MarginHead& head, std::ptrdiff_t first) {
  int low = 0, high = head.labelled;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (head.label[head.labelled_rows[middle]] < first) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {low, low};
}

void advance(const MarginHead& head, const Block& block, Labels& labels) {
  labels.begin = labels.end;
  while (labels.end < head.labelled && head.label[head.labelled_rows[labels.end]] < block.first + block.classes) {
    ++labels.end;
  }
}

struct Target {
  double cosine, inverse_norm;  // of the column
};

Target target_of(const MarginHead& head, int sample) {
  const std::ptrdiff_t column = head.label[sample];
  const float* embedding = head.embedding + static_cast<std::ptrdiff_t>(sample) * head.dims;
  double dot = 0.0, square = 0.0;
  for (int dim = 0; dim < head.dims; ++dim) {
    const double w = kernel_at(head, dim, column);
    dot += w * embedding[dim];
    square += w * w;
  }
  const double length = __builtin_sqrt(square);
  const double inverse = length > kMarginEpsilon ? 1.0 / length : 0.0;
  const double cosine = dot * inverse * head.inverse_norm[sample];
  return {cosine < -1.0 ? -1.0 : (cosine > 1.0 ? 1.0 : cosine), inverse};
}

PNF_INLINE float* logit_of(const MarginHead& head, const Block& block, int sample, int chunk, int samples) {
  const int at = static_cast<int>(head.label[sample] - block.first);
  return block.logits + (static_cast<std::ptrdiff_t>(at / kTile) * samples + sample - chunk) * kTile + at % kTile;
}

void mask_targets(const MarginHead& head, const Block& block, const Labels& labels, int chunk, int samples,
                  float value) {
  for (int i = labels.begin; i < labels.end; ++i) {
    const int sample = head.labelled_rows[i];
    if (sample >= chunk && sample < chunk + samples) *logit_of(head, block, sample, chunk, samples) = value;
  }
}

void cosines(const MarginHead& head, const Block& block, int panel, int chunk, int samples) {
  const Product args = {head.unit_rows + chunk * head.row_stride,
                        head.row_stride,
                        1,
                        0,
                        block.columns + panel * block.panel_floats,
                        1,
                        head.dims,
                        block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile,
                        kTile,
                        false};
  product(args, samples);
}

// Adds the logits of a block to a sample's maximum and sum.
void reduce_row(const Block& block, int row, int samples, float scale, float& row_max, double& row_sum) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(samples) * kTile;
  const float* logits = block.logits + static_cast<std::ptrdiff_t>(row) * kTile;
  Vec largest = load(logits);
  for (int panel = 0; panel < block.panels; ++panel) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) largest = max_nan(largest, load(logits + panel * stride + v * kLanes));
  }
  float lanes[kLanes];
  store(lanes, largest);
  float cosine = lanes[0];
  for (int i = 1; i < kLanes; ++i) cosine = lanes[i] > cosine ? lanes[i] : cosine;
  if (scale * cosine > row_max) {
    row_sum *= __builtin_exp(static_cast<double>(row_max) - scale * cosine);
    row_max = scale * cosine;
  }
  const Vec factor = splat(scale), shift = splat(-row_max);
  Vec sum[kTileVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kTileVecs; ++v) sum[v] = splat(0.0f);
  for (int panel = 0; panel < block.panels; ++panel) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) {
      sum[v] = add(sum[v], exponential(fma(load(logits + panel * stride + v * kLanes), factor, shift)));
    }
  }
#pragma GCC unroll 16
  for (int v = 1; v < kTileVecs; ++v) sum[0] = add(sum[0], sum[v]);
  store(lanes, sum[0]);
  float total = lanes[0];
  for (int i = 1; i < kLanes; ++i) total += lanes[i];
  row_sum += total;
}

// Turns the cosines of a panel into g.
void weigh(const MarginHead& head, const MarginBackward& args, float* panel, int chunk, int samples) {
  const Vec factor = splat(head.scale);
  for (int row = 0; row < samples; ++row) {
    const Vec shift = splat(-args.row_shift[chunk + row]), weight = splat(args.row_scale[chunk + row]);
    float* g = panel + static_cast<std::ptrdiff_t>(row) * kTile;
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) {
      store(g + v * kLanes, mul(weight, exponential(fma(load(g + v * kLanes), factor, shift))));
    }
  }
}

void add_product_over_classes(const Block& block, int padded, int chunk, int samples, float* row_sums) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(block.panels) * kTile * kTile;
  for (int panel = 0; panel < padded / kTile; ++panel) {
    const Product args = {block.logits,
                          kTile,
                          1,
                          static_cast<std::ptrdiff_t>(samples) * kTile,
                          block.transposed + panel * stride,
                          block.panels,
                          kTile,
                          row_sums + static_cast<std::ptrdiff_t>(chunk) * padded + panel * kTile,
                          padded,
                          true};
    product(args, samples);
  }
}

void add_product_over_samples(const MarginHead& head, const Block& block, int panel, int chunk, int samples) {
  const Product args = {head.unit_rows + chunk * head.row_stride,
                        1,
                        head.row_stride,
                        0,
                        block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile,
                        1,
                        samples,
                        block.gradient + panel * block.panel_floats,
                        kTile,
                        chunk > 0};
  product(args, head.dims);
}

// Removes the part of the gradient that is parallel to each column, and divides by the column's length.
void project_columns(const MarginHead& head, const Block& block, int panel) {
  const float* columns = block.columns + panel * block.panel_floats;
  float* gradient = block.gradient + panel * block.panel_floats;
  Vec parallel[kTileVecs], inverse[kTileVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kTileVecs; ++v) {
    parallel[v] = splat(0.0f);
    inverse[v] = load(block.inverse + panel * kTile + v * kLanes);
  }
  for (int i = 0; i < head.dims * kTile; i += kTile) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) {
      parallel[v] = fma(load(columns + i + v * kLanes), load(gradient + i + v * kLanes), parallel[v]);
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kTileVecs; ++v) parallel[v] = mul(parallel[v], splat(-1.0f));
  for (int i = 0; i < head.dims * kTile; i += kTile) {
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) {
      const Vec across = fma(parallel[v], load(columns + i + v * kLanes), load(gradient + i + v * kLanes));
      store(gradient + i + v * kLanes, mul(across, inverse[v]));
    }
  }
}

void add_targets(const MarginHead& head, const MarginBackward& args, const Block& block, const Labels& labels) {
  for (int i = labels.begin; i < labels.end; ++i) {
    const int sample = head.labelled_rows[i];
    const std::ptrdiff_t column = head.label[sample];
    const Target target = target_of(head, sample);
    const double weight = args.grad_cosine[sample], row_inverse = head.inverse_norm[sample];
    const float* embedding = head.embedding + static_cast<std::ptrdiff_t>(sample) * head.dims;
    float* row = args.label_rows + static_cast<std::ptrdiff_t>(sample) * head.dims;
    const int at = static_cast<int>(column - block.first);
    float* gradient = block.gradient + at / kTile * block.panel_floats + at % kTile;
    for (int dim = 0; dim < head.dims; ++dim) {
      const double w = kernel_at(head, dim, column) * target.inverse_norm, e = embedding[dim] * row_inverse;
      row[dim] = static_cast<float>(weight * (w - target.cosine * e));
      gradient[dim * kTile] += static_cast<float>(weight * (e - target.cosine * w) * target.inverse_norm);
    }
  }
}

}  // namespace

long margin_forward(const MarginHead& head, const MarginForward& out, std::ptrdiff_t begin, std::ptrdiff_t end,
                    float* scratch) {
  for (int n = 0; n < head.samples; ++n) {
    // Below every logit; the first block replaces it.
    out.row_max[n] = -2.0f * head.scale;
    out.row_sum[n] = 0.0;
  }
  Block block = block_in(head, scratch);
  Labels labels = labels_from(head, begin);
  for (std::ptrdiff_t first = begin; first < end; first += block.classes) {
    const std::ptrdiff_t bad = load_block(head, first, end, block);
    if (bad >= 0) return bad;
    advance(head, block, labels);
    for (int i = labels.begin; i < labels.end; ++i) {
      out.cosine[head.labelled_rows[i]] = target_of(head, head.labelled_rows[i]).cosine;
    }
    for (int chunk = 0; chunk < head.samples; chunk += kMarginSamples) {
      const int samples = margin_chunk(head.samples - chunk);
      for (int panel = 0; panel < block.panels; ++panel) cosines(head, block, panel, chunk, samples);
      mask_targets(head, block, labels, chunk, samples, kMasked);
      float* last = block.logits + static_cast<std::ptrdiff_t>(block.panels - 1) * samples * kTile;
      for (int j = panel_classes(block, block.panels - 1); j < kTile; ++j) {
        for (int row = 0; row < samples; ++row) last[static_cast<std::ptrdiff_t>(row) * kTile + j] = kMasked;
      }
      for (int row = 0; row < samples; ++row) {
        reduce_row(block, row, samples, head.scale, out.row_max[chunk + row], out.row_sum[chunk + row]);
      }
    }
  }
  return -1;
}

long margin_backward(const MarginHead& head, const MarginBackward& args, std::ptrdiff_t begin, std::ptrdiff_t end,
                     float* scratch) {
  const int padded = margin_padded(head.dims);
  const std::ptrdiff_t sums = static_cast<std::ptrdiff_t>(head.samples) * padded;
  for (std::ptrdiff_t i = 0; i < sums; i += kLanes) store(args.row_sums + i, splat(0.0f));
  Block block = block_in(head, scratch);
  Labels labels = labels_from(head, begin);
  for (std::ptrdiff_t first = begin; first < end; first += block.classes) {
    const std::ptrdiff_t bad = load_block(head, first, end, block);
    if (bad >= 0) return bad;
    transpose_block(block, padded);
    advance(head, block, labels);
    for (int chunk = 0; chunk < head.samples; chunk += kMarginSamples) {
      const int samples = margin_chunk(head.samples - chunk);
      for (int panel = 0; panel < block.panels; ++panel) {
        cosines(head, block, panel, chunk, samples);
        weigh(head, args, block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile, chunk, samples);
      }
      mask_targets(head, block, labels, chunk, samples, 0.0f);
      for (int panel = 0; panel < block.panels; ++panel) {
        add_product_over_samples(head, block, panel, chunk, samples);
      }
      add_product_over_classes(block, padded, chunk, samples, args.row_sums);
    }
    for (int panel = 0; panel < block.panels; ++panel) project_columns(head, block, panel);
    add_targets(head, args, block, labels);
    for (int panel = 0; panel < block.panels; ++panel) {
      const float* gradient = block.gradient + panel * block.panel_floats;
      for (int dim = 0; dim < head.dims; ++dim) {
        store_columns(head, gradient + dim * kTile, dim, first + panel * kTile, panel_classes(block, panel),
                      args.grad_kernel);
      }
    }
  }
  return -1;
}

void margin_exp(const float* x, int count, float* out) {
  for (int i = 0; i < count; i += kLanes) store(out + i, exponential(load(x + i)));
}

}  // namespace pnf::PNF_ISA
