// Nodes that read their states as they lie, without an activation: a strip of columns at a time, and down its rows. What the
// windows of a strip share is then still in the first-level cache when the next row asks for it, where three whole rows of
// all blocks would not be, and what goes to the product never leaves that cache. Include after pool.inl and rows.inl.
#include "kernels/assert.h"

namespace pnf::PNF_ISA {
namespace {

// Rows of one block of a depthwise 3x3 term that a row of its output reads, `in` at the strip's first pixel of the first.
struct Windows {
  const float* in;
  std::ptrdiff_t row;
  int ky_begin, ky_end;
  bool left, right;  // whether the strip begins and ends with the image
  const float* weights;
  Middle middle;
};

// T pixels of the output; each pixel of the input is loaded once per row.
template <int T>
void filter_strip(const Windows& windows, float* out) {
#pragma GCC unroll 1
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    const Vec start = windows.middle.start(lane);
    Vec acc[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) acc[t] = start;
    const float* in = windows.in + lane;
#pragma GCC unroll 1
    for (int ky = windows.ky_begin; ky < windows.ky_end; ++ky, in += windows.row) {
      const float* const before = windows.left ? kZeroPixel : in - kBlock;
      const float* const after = windows.right ? kZeroPixel : in + T * kBlock;
      const float* const weights = windows.weights + 3 * ky * kBlock + lane;
      const Vec w[3] = {load(weights), load(weights + kBlock), load(weights + 2 * kBlock)};
#pragma GCC unroll 64
      for (int i = 0; i < T + 2; ++i) {
        const Vec value = load(i == 0 ? before : (i == T + 1 ? after : in + (i - 1) * kBlock));
#pragma GCC unroll 8
        for (int kx = 0; kx < 3; ++kx) {
          if (i >= kx && i - kx < T) acc[i - kx] = fma(value, w[kx], acc[i - kx]);
        }
      }
    }
    windows.middle.finish(lane, acc);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + t * kBlock + lane, acc[t]);
  }
}

using FilterStrip = void (*)(const Windows&, float*);

template <int T = kStripPixels>
FilterStrip filter_strip_of(int pixels) {
  if constexpr (T > 1) {
    if (pixels < T) return filter_strip_of<T - 1>(pixels);
  }
  return filter_strip<T>;
}

inline bool is_window(const Term& term) {
  return term.kind == TermKind::kDepthwise || term.kind == TermKind::kDepthwiseAlone ||
         term.kind == TermKind::kDepthwisePooled;
}

inline bool has_activation(const Term& term) {
  if (term.cap != nullptr) return true;
  for (int i = 0; i < term.blocks * kBlock; ++i) {
    if (term.slope[i] != 1.0f) return true;
  }
  return false;
}

// Whether a node can be computed so, and has windows that gain by it.
inline bool reads_as_it_lies(const Node& node) {
  bool windows = false, identity = false;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    if (is_window(term)) {
      if (term.kernel != 3 || filter_stride(term) != 1 || has_activation(term)) return false;
      if (term.kind == TermKind::kDepthwiseAlone && node.terms > 1) return false;
      windows = true;
      continue;
    }
    switch (term.kind) {
      case TermKind::kPointwise:
        if (term.stride != 1 || term.shift != 0 || has_activation(term)) return false;
        break;
      case TermKind::kIdentity:
        if (identity) return false;
        identity = true;
        break;
      default:
        return false;
    }
  }
  return windows;
}

// The columns of a state by tiles, of which each has one pixel more than the next at most.
struct Columns {
  int tiles, size, larger;

  explicit Columns(int width)
      : tiles((width + kStripPixels - 1) / kStripPixels), size(width / tiles), larger(width % tiles) {}
  int begin(int tile) const { return tile * size + (tile < larger ? tile : larger); }
  int most() const { return size + (larger > 0 ? 1 : 0); }
};

// One depthwise term.
struct StripTerm {
  const Term* term;
  MiddleKind middle;
  float* panels;
  FilterStrip filter[2];  // of the smaller tiles and of the larger ones

  // Row y of one block of the convolution, `pixels` of it from x on.
  void filter_tile(const Columns& columns, int block, int y, int x, int pixels, float* out) const {
    const int top = y - 1, begin = top < 0 ? 1 : 0, end = top + 3 > term->height ? term->height - top : 3;
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term->width) * kBlock;
    PNF_ASSERT(x >= 0 && x + pixels <= term->width && pixels - columns.size <= 1);
    filter[pixels - columns.size](
        {.in = term->input + block * term->block_stride + (top + begin) * row + static_cast<std::ptrdiff_t>(x) * kBlock,
         .row = row,
         .ky_begin = begin,
         .ky_end = end,
         .left = x == 0,
         .right = x + pixels == term->width,
         .weights = term->depthwise + block * 9 * kBlock,
         .middle = middle_of(*term, middle, block)},
        out);
  }

  // The same of the largest of 2 x 2 pixels, from two tiles side by side.
  void pool_tile(const Columns& columns, int block, int y, int x, int pixels, float* out) const {
    constexpr std::ptrdiff_t kRow = 2 * kStripPixels * kBlock;
    float filtered[2 * kRow];
    for (int r = 0; r < 2; ++r) {
      filter_tile(columns, block, 2 * y + r, 2 * x, pixels, filtered + r * kRow);
      filter_tile(columns, block, 2 * y + r, 2 * x + pixels, pixels, filtered + r * kRow + pixels * kBlock);
    }
    for_each_pooled(filtered, kRow, pixels,
                    [out](int p, int lane, Vec value) { store(out + p * kBlock + lane, value); });
  }
};

// The sums of row y of a strip's pixels.
template <typename Panels>
void multiply_strip(const Node& node, const StripTerm* strips, std::ptrdiff_t panel, int y, int x, int pixels,
                    bool partial) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(node.width) * kBlock;
  const std::ptrdiff_t first = y * row + static_cast<std::ptrdiff_t>(x) * kBlock;
  const int group = partial ? 1 : kTileBlocks;
  for (int block = 0; block < node.blocks;) {
    const int here = node.blocks - block < group ? 1 : group;
    TileOutOf<float> out = {.bias = node.bias + block * kBlock,
                            .addend = nullptr,
                            .addend_stride = 0,
                            .identity = nullptr,
                            .identity_stride = 0,
                            .output = node.output + block * node.block_stride + first,
                            .output_stride = node.block_stride};
    Run runs[kMaxTerms];
    int count = 0;
    for (int t = 0; t < node.terms; ++t) {
      const Term& term = node.term[t];
      if (term.kind == TermKind::kIdentity) {
        out.identity = term.input + block * term.block_stride + first;
        out.identity_stride = term.block_stride;
        continue;
      }
      if (!has_output(term, block)) continue;
      const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(term.blocks) * kPanelWords<float>;
      const float* const weights = term.pointwise + (block - term.first_out) * per_block;
      PNF_ASSERT(count < kMaxTerms);
      if (term.kind == TermKind::kPointwise) {
        runs[count++] = {term.input + first, term.block_stride, weights, per_block, term.blocks};
      } else {
        runs[count++] = {strips[t].panels, panel, weights, per_block, term.blocks};
      }
    }
    if (here == 1) {
      Panels::template multiply<1>(runs, count, out, pixels);
    } else {
      Panels::template multiply<kTileBlocks>(runs, count, out, pixels);
    }
    block += here;
  }
}

// What a node without a product adds to its convolution, which is nothing as a rule.
PNF_INLINE void add_bias(const float* bias, int pixels, float* out) {
  bool none = true;
  for (int i = 0; i < kBlock; ++i) none = none && bias[i] == 0.0f;
  if (none) return;
  for (int p = 0; p < pixels; ++p, out += kBlock) {
    for (int lane = 0; lane < kBlock; lane += kLanes) store(out + lane, add(load(out + lane), load(bias + lane)));
  }
}

// Tiles side by side whose windows fit half of a first-level cache of 32 KiB or more.
inline int tiles_of_strip(int blocks, int pixels) {
  constexpr int kBytes = 24 * 1024;
  const int fit = kBytes / (3 * blocks * pixels * kBlock * static_cast<int>(sizeof(float)));
  return fit < 1 ? 1 : fit;
}

template <typename Panels>
void node_strips(const Node& node, int row_begin, int row_end, float* scratch) {
  const Columns columns(node.width);
  StripTerm strips[kMaxTerms];
  bool partial = false;
  int blocks = 0;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    if (is_convolution(term)) partial = partial || term.out_blocks != node.blocks;
    if (is_window(term)) blocks += term.blocks;
  }
  const int step = tiles_of_strip(blocks, columns.most());
  const std::ptrdiff_t panel =
      static_cast<std::ptrdiff_t>(step < columns.tiles ? step : columns.tiles) * columns.most() * kBlock;
  for (int t = 0; t < node.terms; ++t) {
    const Term& term = node.term[t];
    if (!is_window(term)) continue;
    strips[t] = {&term,
                 middle_kind(term.middle, term.blocks),
                 scratch,
                 {filter_strip_of(columns.size), columns.larger > 0 ? filter_strip_of(columns.size + 1) : nullptr}};
    scratch += term.blocks * panel;
  }
  const bool alone = node.term[0].kind == TermKind::kDepthwiseAlone;
  for (int tile = 0; tile < columns.tiles; tile += step) {
    const int end = tile + step < columns.tiles ? tile + step : columns.tiles;
    const int begin = columns.begin(tile), pixels = columns.begin(end) - begin;
    for (int y = row_begin; y < row_end; ++y) {
      for (int t = 0; t < node.terms; ++t) {
        const Term& term = node.term[t];
        if (!is_window(term)) continue;
        for (int block = 0; block < term.blocks; ++block) {
          float* const out = alone ? node.output + block * node.block_stride +
                                         (static_cast<std::ptrdiff_t>(y) * node.width + begin) * kBlock
                                   : strips[t].panels + block * panel;
          for (int i = tile; i < end; ++i) {
            const int x = columns.begin(i), here = columns.begin(i + 1) - x;
            float* const to = out + (x - begin) * kBlock;
            if (term.kind == TermKind::kDepthwisePooled) {
              strips[t].pool_tile(columns, block, y, x, here, to);
            } else {
              strips[t].filter_tile(columns, block, y, x, here, to);
            }
          }
          if (alone) add_bias(node.bias + block * kBlock, pixels, out);
        }
      }
      if (!alone) multiply_strip<Panels>(node, strips, panel, y, begin, pixels, partial);
    }
  }
}

}  // namespace
}  // namespace pnf::PNF_ISA
