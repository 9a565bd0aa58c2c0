// The node kernel. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
//
// Rows are taken a few at a time. For each term the activated input of those rows is brought into scratch: for a
// depthwise term through a ring of k padded rows per block, so that PReLU is applied once per element and the
// ring stays in the first-level cache; then one register-tiled product over all terms writes the output once.
#include "kernels/node/node.h"
// clang-format off
#include "kernels/node/pointwise.inl"
#include "kernels/node/depthwise.inl"
#include "kernels/node/pool.inl"
// clang-format on
#include "kernels/node/scratch.h"

namespace pnf::PNF_ISA {
namespace {

PNF_INLINE void activate(const float* in, int step, int pixels, const float* slope, float* out) {
  Vec s[kVecs];
  for (int v = 0; v < kVecs; ++v) s[v] = load(slope + v * kLanes);
  for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      store(out + p * kBlock + v * kLanes, prelu(load(in + p * step * kBlock + v * kLanes), s[v]));
    }
  }
}

void clear(float* out, int floats) {
  for (int i = 0; i < floats; i += kLanes) store(out + i, splat(0.0f));
}

// One depthwise term in progress: its ring, and the first input row that is not in the ring yet.
struct DepthwiseStage {
  const Term* term;
  DepthwiseRow row;
  float* ring;
  int next;

  float* slot(int block, int iy) const {
    return ring + static_cast<std::ptrdiff_t>(block * term->kernel + iy % term->kernel) * ring_width(*term) * kBlock;
  }
};

DepthwiseStage begin_depthwise(const Term& term, int row_begin, float* ring) {
  const int pad = term.kernel / 2;
  const int top = row_begin * term.stride - pad;
  const DepthwiseStage stage = {&term, depthwise_row_of(term.kernel, term.stride), ring, top < 0 ? 0 : top};
  for (int block = 0; block < term.blocks; ++block) {
    for (int slot = 0; slot < term.kernel; ++slot) {
      clear(stage.slot(block, slot), pad * kBlock);
      clear(stage.slot(block, slot) + (pad + term.width) * kBlock, pad * kBlock);
    }
  }
  return stage;
}

void depthwise_output_row(DepthwiseStage& stage, int y, int out_width, float* out, std::ptrdiff_t panel) {
  const Term& term = *stage.term;
  const int pad = term.kernel / 2;
  const int top = y * term.stride - pad;
  const int ky_begin = top < 0 ? -top : 0;
  const int ky_end = top + term.kernel > term.height ? term.height - top : term.kernel;
  for (int block = 0; block < term.blocks; ++block) {
    const float* in = term.input + block * term.block_stride;
    for (int iy = stage.next; iy < top + ky_end; ++iy) {
      activate(in + static_cast<std::ptrdiff_t>(iy) * term.width * kBlock, 1, term.width, term.slope + block * kBlock,
               stage.slot(block, iy) + pad * kBlock);
    }
    const float* rows[kMaxKernel];
    for (int ky = ky_begin; ky < ky_end; ++ky) rows[ky] = stage.slot(block, top + ky);
    stage.row(rows, ky_begin, ky_end, out_width, term.depthwise + block * term.kernel * term.kernel * kBlock,
              out + block * panel);
  }
  if (top + ky_end > stage.next) stage.next = top + ky_end;
}

void add_row(const float* in, int pixels, bool accumulate, float* out) {
  for (int i = 0; i < pixels * kBlock; i += kLanes) {
    store(out + i, accumulate ? add(load(in + i), load(out + i)) : load(in + i));
  }
}

struct Addend {
  const float* data;
  std::ptrdiff_t stride;
};

// The terms without weights, summed over `rows` rows from `y`. A single identity is read where it lies.
Addend sum_addends(const Node& node, int y, int rows, float* scratch) {
  int others = 0;
  const Term* identity = nullptr;
  for (int t = 0; t < node.terms; ++t) {
    const TermKind kind = node.term[t].kind;
    if (kind == TermKind::kIdentity) identity = &node.term[t];
    if (kind == TermKind::kIdentity || kind == TermKind::kMaxPool || kind == TermKind::kAvgPool) ++others;
  }
  if (others == 0) return {nullptr, 0};
  const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  if (others == 1 && identity != nullptr) return {identity->input + y * row_floats, identity->block_stride};
  const std::ptrdiff_t stride = rows * row_floats;
  bool accumulate = false;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    if (term.kind == TermKind::kPointwise || term.kind == TermKind::kDepthwise) continue;
    for (int block = 0; block < node.blocks; ++block) {
      for (int r = 0; r < rows; ++r) {
        float* out = scratch + block * stride + r * row_floats;
        if (term.kind == TermKind::kMaxPool) {
          pool_row<true>(term, block, y + r, node.width, accumulate, out);
        } else if (term.kind == TermKind::kAvgPool) {
          pool_row<false>(term, block, y + r, node.width, accumulate, out);
        } else {
          add_row(term.input + block * term.block_stride + (y + r) * row_floats, node.width, accumulate, out);
        }
      }
    }
    accumulate = true;
  }
  return {scratch, stride};
}

}  // namespace

void node_rows(const Node& node, int row_begin, int row_end, float* scratch) {
  const int band = band_rows(node);
  const std::ptrdiff_t row_floats = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  const std::ptrdiff_t panel = band * row_floats;

  DepthwiseStage stages[kMaxTerms];
  float* activated[kMaxTerms] = {};
  bool partial = false;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    if (term.kind != TermKind::kPointwise && term.kind != TermKind::kDepthwise) continue;
    activated[t] = scratch;
    scratch += term.blocks * panel;
    if (term.kind == TermKind::kDepthwise) {
      stages[t] = begin_depthwise(term, row_begin, scratch);
      scratch += ring_floats(term);
    }
    partial = partial || term.out_blocks != node.blocks;
  }

  for (int y = row_begin; y < row_end; y += band) {
    const int rows = row_end - y < band ? row_end - y : band;
    for (int t = 0; t < node.terms; ++t) {
      const Term& term = node.term[t];
      if (activated[t] == nullptr) continue;
      for (int r = 0; r < rows; ++r) {
        float* out = activated[t] + r * row_floats;
        if (term.kind == TermKind::kDepthwise) {
          depthwise_output_row(stages[t], y + r, node.width, out, panel);
          continue;
        }
        const std::ptrdiff_t iy = static_cast<std::ptrdiff_t>(y + r) * term.stride + term.shift;
        for (int block = 0; block < term.blocks; ++block) {
          activate(term.input + block * term.block_stride + (iy * term.width + term.shift) * kBlock, term.stride,
                   node.width, term.slope + block * kBlock, out + block * panel);
        }
      }
    }
    const Addend addend = sum_addends(node, y, rows, scratch);

    const int group = partial ? 1 : kTileBlocks;
    for (int block = 0; block < node.blocks;) {
      const int here = node.blocks - block < group ? 1 : group;
      Run runs[kMaxTerms];
      int n_runs = 0;
      for (int t = 0; t < node.terms; ++t) {
        const Term& term = node.term[t];
        if (activated[t] == nullptr || block < term.first_out || block >= term.first_out + term.out_blocks) continue;
        const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * kBlock * kBlock;
        runs[n_runs++] = {activated[t], panel, term.pointwise + (block - term.first_out) * per_block, per_block,
                          term.blocks};
      }
      const TileOut out = {node.bias + block * kBlock,
                           addend.data == nullptr ? nullptr : addend.data + block * addend.stride, addend.stride,
                           node.output + block * node.block_stride + y * row_floats, node.block_stride};
      const int pixels = rows * node.width;
      if (here == 1) {
        pointwise_pixels<1>(runs, n_runs, out, pixels, [] {});
      } else {
        pointwise_pixels<kTileBlocks>(runs, n_runs, out, pixels, [] {});
      }
      block += here;
    }
  }
}

}  // namespace pnf::PNF_ISA
