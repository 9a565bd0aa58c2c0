// The margin softmax kernels. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace, and
// PNF_MARGIN_PAIRS defined for products of pairs of bfloat16.
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
#include "kernels/margin_cross_entropy/block.inl"
#ifdef PNF_MARGIN_PAIRS
#include "kernels/margin_cross_entropy/pairs.inl"
#else
#include "kernels/margin_cross_entropy/floats.inl"
#endif
#include "kernels/margin_cross_entropy/product.inl"
// clang-format on

namespace pnf::PNF_ISA {
namespace {

// Takes the label's class out of the running maximum and of every sum.
constexpr float kMasked = -3e38f;

PNF_INLINE float kernel_at(const MarginHead& head, int dim, std::ptrdiff_t column) {
  const std::ptrdiff_t at = dim * head.classes + column;
  return head.bf16 ? from_bf16(static_cast<const std::uint16_t*>(head.kernel)[at])
                   : static_cast<const float*>(head.kernel)[at];
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
  for (int i = 0; i < block.panels * kTile; i += kLanes) store(block.inverse + i, splat(0.0f));
  // Along a row of the kernel, which lies in memory as it is read.
  for (int dim = 0; dim < head.dims; ++dim) {
    for (int panel = 0; panel < block.panels; ++panel) {
      float* out = block.columns + panel * block.panel_floats + dim * kTile;
      float* squares = block.inverse + panel * kTile;
      load_columns(head, dim, first + panel * kTile, panel_classes(block, panel), out);
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) {
        const Vec w = load(out + v * kLanes);
        store(squares + v * kLanes, fma(w, w, load(squares + v * kLanes)));
      }
    }
  }
  for (int j = 0; j < block.panels * kTile; ++j) {
    const double length = __builtin_sqrt(static_cast<double>(block.inverse[j]));
    if (!(length <= 3e38)) return first + j;
    block.inverse[j] = length > kMarginEpsilon ? static_cast<float>(1.0 / length) : 0.0f;
  }
  for (int panel = 0; panel < block.panels; ++panel) {
    float* columns = block.columns + panel * block.panel_floats;
    Vec inverse[kTileVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) inverse[v] = load(block.inverse + panel * kTile + v * kLanes);
    for (int i = 0; i < head.dims * kTile; i += kTile) {
#pragma GCC unroll 16
      for (int v = 0; v < kTileVecs; ++v) {
        store(columns + i + v * kLanes, mul(load(columns + i + v * kLanes), inverse[v]));
      }
    }
    for (int i = head.dims * kTile; i < block.panel_floats; i += kLanes) store(columns + i, splat(0.0f));
  }
  pack_columns(block, margin_padded(head.dims));
  return -1;
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

// The kernel's columns after the block, up to `end`, or the places of the block's own columns in a matrix like the kernel.
Prefetch next_block(const MarginHead& head, const Block& block, std::ptrdiff_t end, int tiles) {
  const std::ptrdiff_t size = head.bf16 ? sizeof(std::uint16_t) : sizeof(float), first = block.first + block.classes;
  const std::ptrdiff_t classes = end - first < margin_block_of(head.dims) ? end - first : margin_block_of(head.dims);
  const char* at = static_cast<const char*>(head.kernel) + first * size;
  return {at, classes * size, head.classes * size, head.dims, tiles};
}
Prefetch this_block(const MarginHead& head, const Block& block, const void* like_kernel, int tiles) {
  const std::ptrdiff_t size = head.bf16 ? sizeof(std::uint16_t) : sizeof(float);
  const char* at = static_cast<const char*>(like_kernel) + block.first * size;
  return {at, block.classes * size, head.classes * size, head.dims, tiles};
}

// Calls at(panel, row of the chunk, lane) for every sample of the chunk whose label lies in the block.
template <typename At>
void each_target(const MarginHead& head, const Block& block, const Labels& labels, int chunk, int samples, At at) {
  for (int i = labels.begin; i < labels.end; ++i) {
    const int sample = head.labelled_rows[i];
    const int place = static_cast<int>(head.label[sample] - block.first);
    if (sample >= chunk && sample < chunk + samples) at(place / kTile, sample - chunk, place % kTile);
  }
}

void cosines(const MarginHead& head, const Rows& rows, const Block& block, int panel, int chunk, int samples,
             float* out, Prefetch& prefetch) {
  const Product args = {rows.by_dims + chunk * rows.dims_stride,
                        rows.dims_stride,
                        1,
                        0,
                        block.operands + panel * block.panel_words,
                        1,
                        words(head.dims),
                        out,
                        kTile,
                        false};
  product(args, samples, prefetch);
}

// The largest of each lane and row so far, of a panel whose logits are still in the first-level cache.
void track_largest(const Block& block, int panel, int samples) {
  const float* logits = block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile;
  for (int row = 0; row < samples; ++row) {
    float* lanes = block.lanes + row * kMarginLanes;
    Vec largest = load(logits);
#pragma GCC unroll 16
    for (int v = 1; v < kTileVecs; ++v) largest = max_nan(largest, load(logits + v * kLanes));
    store(lanes, panel == 0 ? largest : max_nan(largest, load(lanes)));
    logits += kTile;
  }
}

// Moves a sample's maximum to what the block has, and its sum with it.
void raise_maximum(const Block& block, int row, float scale, float& row_max, double& row_sum) {
  float* lanes = block.lanes + row * kMarginLanes;
  float cosine = lanes[0];
  for (int i = 1; i < kLanes; ++i) cosine = lanes[i] > cosine ? lanes[i] : cosine;
  if (scale * cosine > row_max) {
    row_sum *= __builtin_exp(static_cast<double>(row_max) - scale * cosine);
    row_max = scale * cosine;
  }
}

void add_exponentials(const Block& block, int panel, int samples, float scale, const float* row_max) {
  const float* logits = block.logits + static_cast<std::ptrdiff_t>(panel) * samples * kTile;
  const Vec factor = splat(-scale);
  for (int row = 0; row < samples; ++row) {
    float* lanes = block.lanes + row * kMarginLanes;
    const Vec shift = splat(row_max[row]);
    Vec sum = panel == 0 ? splat(0.0f) : load(lanes);
#pragma GCC unroll 16
    for (int v = 0; v < kTileVecs; ++v) {
      sum = add(sum, exponential_of_minus(fma(load(logits + v * kLanes), factor, shift)));
    }
    store(lanes, sum);
    logits += kTile;
  }
}

double lane_sum(const Block& block, int row) {
  const float* lanes = block.lanes + row * kMarginLanes;
  float total = lanes[0];
  for (int i = 1; i < kLanes; ++i) total += lanes[i];
  return total;
}

void add_product_over_classes(const Block& block, int padded, int chunk, int samples, float* row_sums,
                              Prefetch& prefetch) {
  const std::ptrdiff_t panel_words = kTile / kPerWord * kTile, row_words = kTile / kPerWord;
  for (int panel = 0; panel < padded / kTile; ++panel) {
    const Product args = {by_classes(block),
                          row_words,
                          1,
                          samples * row_words,
                          block.transposed + panel * block.panels * panel_words,
                          block.panels,
                          kTile / kPerWord,
                          row_sums + static_cast<std::ptrdiff_t>(chunk) * padded + panel * kTile,
                          padded,
                          true};
    product(args, samples, prefetch);
  }
}

void add_product_over_samples(const MarginHead& head, const Rows& rows, const Block& block, int panel, int chunk,
                              int samples, Prefetch& prefetch) {
  const Product args = {rows.by_samples + chunk / kPerWord * rows.samples_stride,
                        1,
                        rows.samples_stride,
                        0,
                        block.logits + static_cast<std::ptrdiff_t>(panel) * words(samples) * kTile,
                        1,
                        words(samples),
                        block.gradient + panel * block.panel_floats,
                        kTile,
                        chunk > 0};
  product(args, head.dims, prefetch);
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
  const Rows rows = rows_in(head, scratch);
  Labels labels = labels_from(head, begin);
  for (std::ptrdiff_t first = begin; first < end; first += block.classes) {
    const std::ptrdiff_t bad = load_block(head, first, end, block);
    if (bad >= 0) return bad;
    advance(head, block, labels);
    for (int i = labels.begin; i < labels.end; ++i) {
      out.cosine[head.labelled_rows[i]] = target_of(head, head.labelled_rows[i]).cosine;
    }
    Prefetch next = next_block(head, block, end, block.panels * tiles_of(margin_chunk(head.samples)));
    for (int chunk = 0; chunk < head.samples; chunk += kMarginSamples) {
      const int samples = margin_chunk(head.samples - chunk);
      const std::ptrdiff_t panel_logits = static_cast<std::ptrdiff_t>(samples) * kTile;
      for (int panel = 0; panel < block.panels; ++panel) {
        float* logits = block.logits + panel * panel_logits;
        cosines(head, rows, block, panel, chunk, samples, logits, next);
        each_target(head, block, labels, chunk, samples, [&](int place, int row, int lane) {
          if (place == panel) logits[static_cast<std::ptrdiff_t>(row) * kTile + lane] = kMasked;
        });
        for (int j = panel_classes(block, panel); j < kTile; ++j) {
          for (int row = 0; row < samples; ++row) logits[static_cast<std::ptrdiff_t>(row) * kTile + j] = kMasked;
        }
        track_largest(block, panel, samples);
      }
      for (int row = 0; row < samples; ++row) {
        raise_maximum(block, row, head.scale, out.row_max[chunk + row], out.row_sum[chunk + row]);
      }
      for (int panel = 0; panel < block.panels; ++panel) {
        add_exponentials(block, panel, samples, head.scale, out.row_max + chunk);
      }
      for (int row = 0; row < samples; ++row) out.row_sum[chunk + row] += lane_sum(block, row);
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
  const Rows rows = rows_in(head, scratch);
  Labels labels = labels_from(head, begin);
  for (std::ptrdiff_t first = begin; first < end; first += block.classes) {
    const std::ptrdiff_t bad = load_block(head, first, end, block);
    if (bad >= 0) return bad;
    transpose_block(block, padded);
    advance(head, block, labels);
    Prefetch next = next_block(head, block, end, block.panels * tiles_of(head.dims));
    Prefetch gradient =
        this_block(head, block, args.grad_kernel, padded / kTile * tiles_of(margin_chunk(head.samples)));
    Prefetch nothing = {nullptr, 0, 0, 0, 1};
    for (int chunk = 0; chunk < head.samples; chunk += kMarginSamples) {
      const int samples = margin_chunk(head.samples - chunk);
      for (int panel = 0; panel < block.panels; ++panel) {
        cosines(head, rows, block, panel, chunk, samples, cosines_of(block, panel, samples), nothing);
        weigh(head, args, block, panel, chunk, samples);
      }
      each_target(head, block, labels, chunk, samples,
                  [&](int panel, int row, int lane) { clear(block, panel, row, lane, samples); });
      for (int panel = 0; panel < block.panels; ++panel) {
        add_product_over_samples(head, rows, block, panel, chunk, samples, next);
      }
      add_product_over_classes(block, padded, chunk, samples, args.row_sums, gradient);
    }
    for (int panel = 0; panel < block.panels; ++panel) project_columns(head, block, panel);
    add_targets(head, args, block, labels);
    for (int dim = 0; dim < head.dims; ++dim) {
      for (int panel = 0; panel < block.panels; ++panel) {
        const float* gradient = block.gradient + panel * block.panel_floats + dim * kTile;
        store_columns(head, gradient, dim, first + panel * kTile, panel_classes(block, panel), args.grad_kernel);
      }
    }
  }
  return -1;
}

#ifndef PNF_MARGIN_PAIRS
void margin_exp(const float* x, int count, float* out) {
  for (int i = 0; i < count; i += kLanes) store(out + i, exponential_of_minus(mul(load(x + i), splat(-1.0f))));
}
#endif

}  // namespace pnf::PNF_ISA
