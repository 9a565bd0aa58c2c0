// Separable operations in floats, of states in either precision. Include after blocks.inl, planes.inl, correlate.inl and
// the node's pointwise.inl and depthwise.inl.
//
// Channels-last rows are brought into blocks of 16 channels when they are activated or scaled, so that everything
// between is the arithmetic of the node kernel. A depthwise kernel reads a plane that is padded by zeros on all sides:
// the gradient of its input is then the same convolution with reversed taps, of the plane of output gradients in which
// stride 2 leaves every other pixel zero.
namespace pnf::PNF_ISA {
namespace {

constexpr float kZeros[kTileBlocks * kBlock] = {};
// Output channels whose products with a vector of input channels are summed at a time.
constexpr int kOuterRows = kLanes == 8 ? 8 : kLanes == 1 ? 4 : 16;

// A word of correlate.inl that is a value.
struct OneRow {
  static constexpr int kRows = 1;
  static constexpr bool kSpread = false;
  PNF_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};

template <typename State>
PNF_INLINE void activate_block(const State* in, std::ptrdiff_t step, int channels, int pixels, const float* slope,
                               float* out) {
  Vec s[kVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kVecs; ++v) s[v] = load(slope + v * kLanes);
  const auto activate = [&](const auto* from, std::ptrdiff_t from_step) {
    for (int p = 0; p < pixels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        store(out + p * kBlock + v * kLanes, prelu(load(from + p * from_step + v * kLanes), s[v]));
      }
    }
  };
  if (channels == kBlock) {
    activate(in, step);
    return;
  }
  load_block(in, step, channels, pixels, out);
  activate(out, kBlock);
}

// [pixels][16] activations of a kernel of 1 for all blocks, `panel` floats from one to the next.
template <typename State>
PNF_INLINE void activate_chunk(const CellTerm& term, const State* const* input, int begin, int count,
                               std::ptrdiff_t panel, float* out) {
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    runs_of(term, begin, count, [&](int pixel, int source, int pixels) {
      activate_block(input[here.part] + static_cast<std::ptrdiff_t>(source) * term.part_channels + here.first,
                     static_cast<std::ptrdiff_t>(term.stride) * term.part_channels, here.channels, pixels,
                     term.slope + block * kBlock, out + block * panel + (pixel - begin) * kBlock);
    });
  }
}

// out[block o] = sum over panels of a[panel] weights[o][panel]
void multiply(const float* a, std::ptrdiff_t a_panel, int panels, const float* weights, int out_blocks, int pixels,
              float* out, std::ptrdiff_t out_panel, Prefetch& prefetch) {
  const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(panels) * kBlock * kBlock;
  for (int block = 0; block < out_blocks;) {
    const int here = out_blocks - block < kTileBlocks ? 1 : kTileBlocks;
    const Run run = {a, a_panel, weights + block * per_block, per_block, panels};
    const TileOut target = {.bias = kZeros,
                            .addend = nullptr,
                            .addend_stride = 0,
                            .identity = nullptr,
                            .identity_stride = 0,
                            .output = out + block * out_panel,
                            .output_stride = out_panel};
    const auto bring_near = [&] { prefetch.step(); };
    if (here == 1) {
      pointwise_pixels<1>(&run, 1, target, pixels, bring_near);
    } else {
      pointwise_pixels<kTileBlocks>(&run, 1, target, pixels, bring_near);
    }
    block += here;
  }
}

// How many steps multiply() takes with what is ahead of it.
int multiply_steps(int out_blocks, int pixels) {
  const int groups = out_blocks / kTileBlocks + (kTileBlocks > 1 ? out_blocks % kTileBlocks : 0);
  return groups * tiles_of(pixels);
}

// The activated image of one block, inside a cleared border.
template <typename State>
void activate_plane(const CellTerm& term, const State* const* input, int block, float* plane) {
  const PartBlock here = part_block(term, block);
  for (int y = 0; y < term.height; ++y) {
    activate_block(input[here.part] + static_cast<std::ptrdiff_t>(y) * term.width * term.part_channels + here.first,
                   term.part_channels, here.channels, term.width, term.slope + block * kBlock, inside(term, plane, y));
  }
}

// The gradients of a filtered plane at the pixels of the input that its windows are centred on, zero elsewhere.
void spread_plane(const CellTerm& term, const float* gradient, float* plane) {
  for (int y = 0; y < term.height; ++y) {
    float* out = inside(term, plane, y);
    if (y % term.stride != 0) {
      clear(out, row_floats(term));
      continue;
    }
    const float* in = gradient + static_cast<std::ptrdiff_t>(y / term.stride) * term.out_width * kBlock;
    for (int x = 0; x < term.width; ++x) {
      for (int v = 0; v < kVecs; ++v) {
        const Vec value = x % term.stride == 0 ? load(in + x / term.stride * kBlock + v * kLanes) : splat(0.0f);
        store(out + x * kBlock + v * kLanes, value);
      }
    }
  }
}

// out[o][c] += sum over pixels of gradient[pixel][o] * in[pixel][c]
void outer_block(const float* gradient, const float* in, int pixels, double* out) {
#pragma GCC unroll 1
  for (int row = 0; row < kBlock; row += kOuterRows) {
#pragma GCC unroll 1
    for (int v = 0; v < kVecs; ++v) {
      Vec acc[kOuterRows];
#pragma GCC unroll 16
      for (int r = 0; r < kOuterRows; ++r) acc[r] = splat(0.0f);
#pragma GCC unroll 1
      for (int p = 0; p < pixels; ++p) {
        const Vec x = load(in + p * kBlock + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kOuterRows; ++r) acc[r] = fma(splat(gradient[p * kBlock + row + r]), x, acc[r]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kOuterRows; ++r) flush(acc[r], out + (row + r) * kBlock + v * kLanes);
    }
  }
}

template <typename State>
void pointwise_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  float* gradient = scratch;
  float* activated = gradient + term.out_blocks * panel;
  float* by_activated = activated + term.blocks * panel;
  float* spare = by_activated + term.blocks * panel;
  if (term.stride > 1) start_input_gradient(term, args);
  const State* const* const before = term.stride > 1 ? args.grad_input : args.before;
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    product_gradients(term, args, begin, count, panel, gradient);
    activate_chunk(term, args.input, begin, count, panel, activated);
    for (int o = 0; o < term.out_blocks; ++o) {
      for (int b = 0; b < term.blocks; ++b) {
        outer_block(gradient + o * panel, activated + b * panel, count,
                    args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    const int after = begin + count, left = pixels - after < chunk ? pixels - after : chunk;
    Prefetch prefetch;
    add_inputs(term, before, begin, count, prefetch);
    add_inputs(term, args.input, after, left, prefetch);
    add_gradient(term, args, after, left, prefetch);
    prefetch.plan(multiply_steps(term.blocks, count));
    multiply(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_activated, panel, prefetch);
    for (int block = 0; block < term.blocks; ++block) {
      const PartBlock here = part_block(term, block);
      runs_of(term, begin, count, [&](int pixel, int source, int run) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(source) * term.part_channels + here.first;
        prelu_gradient(args.input[here.part] + at, by_activated + block * panel + (pixel - begin) * kBlock,
                       here.channels, run, term.slope + block * kBlock,
                       static_cast<std::ptrdiff_t>(term.stride) * term.part_channels, at_element(before[here.part], at),
                       args.grad_input[here.part] + at, args.grad_slope + block * kBlock, spare);
      });
    }
  }
}

// The filtered planes of an image. The activated, padded ones are left in `activated`: one of each block, or the last
// one only where `activated_panel` is zero.
template <typename State>
void filter_planes(const CellTerm& term, const State* const* input, float* activated, std::ptrdiff_t activated_panel,
                   float* filtered) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(cell_pixels(term)) * kBlock;
  const DepthwiseRow row = depthwise_row_of(term.kernel, term.stride);
  for (int block = 0; block < term.blocks; ++block) {
    float* padded = activated + block * activated_panel;
    if (block == 0 || activated_panel > 0) clear_border(term, padded);
    activate_plane(term, input, block, padded);
    for (int y = 0; y < term.out_height; ++y) {
      const float* rows[kMaxKernel];
      window_rows(term, padded, y * term.stride, rows);
      row(rows, 0, term.kernel, term.out_width, term.depthwise + block * term.kernel * term.kernel * kBlock, kNoMiddle,
          filtered + block * plane + static_cast<std::ptrdiff_t>(y) * term.out_width * kBlock);
    }
  }
}

template <typename State>
void depthwise_gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
  const std::ptrdiff_t pixels = cell_pixels(term), plane = pixels * kBlock;
  const std::ptrdiff_t padded = padded_floats(term), out_row = static_cast<std::ptrdiff_t>(term.out_width) * kBlock;
  const std::ptrdiff_t taps = static_cast<std::ptrdiff_t>(term.kernel) * term.kernel * kBlock;
  const int chunk_rows = chunk_rows_of(term);
  const std::ptrdiff_t panel = chunk_rows * out_row;
  float* gradient = scratch;
  float* activated = gradient + term.out_blocks * panel;
  float* spread = activated + term.blocks * padded;
  float* by_activated = spread + term.blocks * padded;
  float* spare = by_activated + row_floats(term);
  float* by_filtered = spare + row_floats(term);  // stride 2 only; else the gradients go to `spread` at once
  float* filtered = by_filtered + (term.stride > 1 ? term.blocks * plane : 0);

  filter_planes(term, args.input, activated, padded, filtered);
  for (int block = 0; block < term.blocks; ++block) clear_border(term, spread + block * padded);
  for (int y = 0; y < term.out_height; y += chunk_rows) {
    const int rows = term.out_height - y < chunk_rows ? term.out_height - y : chunk_rows;
    const int count = rows * term.out_width;
    product_gradients(term, args, y * term.out_width, count, panel, gradient);
    for (int o = 0; o < term.out_blocks; ++o) {
      for (int b = 0; b < term.blocks; ++b) {
        outer_block(gradient + o * panel, filtered + b * plane + y * out_row, count,
                    args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    Prefetch prefetch;
    add_share(term, args.before, 0, y * term.out_width, count, prefetch);
    if (args.next != 0) {
      add_share(term, args.input, args.next, y * term.out_width, count, prefetch);
      prefetch.add(args.gradient.data + (args.next * pixels + y * term.out_width) * args.gradient.stride,
                   count * args.gradient.stride);
      if (args.products.padded) {
        for (int o = 0; o < term.out_blocks; ++o) {
          prefetch.add(args.products.data + args.next * term.out_blocks * plane + o * args.products.block + y * out_row,
                       count * kBlock);
        }
      }
    }
    if (term.stride > 1) {
      prefetch.plan(multiply_steps(term.blocks, count));
      multiply(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_filtered + y * out_row, plane,
               prefetch);
      continue;
    }
    prefetch.plan(rows * multiply_steps(term.blocks, term.out_width));
    for (int r = 0; r < rows; ++r) {
      multiply(gradient + r * out_row, panel, term.out_blocks, term.transposed, term.blocks, term.out_width,
               inside(term, spread, y + r), padded, prefetch);
    }
  }
  const DepthwiseRow row = depthwise_row_of(term.kernel, 1);
  const CorrelatePlane correlate = correlate_plane_of<OneRow>(term.kernel, term.stride);
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    float* spread_here = spread + block * padded;
    double* by_taps = args.grad_depthwise + block * taps;
    if (term.stride > 1) {
      correlate(term, activated + block * padded, by_filtered + block * plane, out_row, by_taps);
      spread_plane(term, by_filtered + block * plane, spread_here);
    } else {
      correlate(term, activated + block * padded, inside(term, spread_here, 0), padded_row(term), by_taps);
    }
    for (int y = 0; y < term.height; ++y) {
      const float* rows[kMaxKernel];
      window_rows(term, spread_here, y, rows);
      row(rows, 0, term.kernel, term.width, term.reversed + block * taps, kNoMiddle, by_activated);
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(y) * term.width * term.part_channels + here.first;
      prelu_gradient(args.input[here.part] + at, by_activated, here.channels, term.width, term.slope + block * kBlock,
                     term.part_channels, at_element(args.before[here.part], at), args.grad_input[here.part] + at,
                     args.grad_slope + block * kBlock, spare);
    }
  }
}

template <typename State>
void separable_products(const CellTerm& term, const State* const* input, int next, float* filtered, State* products,
                        float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(pixels) * kBlock;
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  if (has_window(term)) filter_planes(term, input, scratch, 0, filtered);
  float* const activated = scratch;
  float* const multiplied = scratch + (has_window(term) ? 0 : term.blocks * panel);  // in half precision
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    const float* panels = filtered + static_cast<std::ptrdiff_t>(begin) * kBlock;
    Prefetch prefetch;
    if (!has_window(term)) {
      activate_chunk(term, input, begin, count, panel, activated);
      panels = activated;
      const int after = begin + count, left = pixels - after;
      add_inputs(term, input, after, left < chunk ? left : chunk, prefetch);
    } else if (next != 0) {
      add_share(term, input, next, begin, count, prefetch);
    }
    prefetch.plan(multiply_steps(term.out_blocks, count));
    State* const out = products + static_cast<std::ptrdiff_t>(begin) * kBlock;
    const std::ptrdiff_t panel_in = has_window(term) ? plane : panel;
    if constexpr (sizeof(State) == sizeof(float)) {
      multiply(panels, panel_in, term.blocks, term.pointwise, term.out_blocks, count, out, plane, prefetch);
    } else {
      multiply(panels, panel_in, term.blocks, term.pointwise, term.out_blocks, count, multiplied, panel, prefetch);
      for (int o = 0; o < term.out_blocks; ++o) {
        store_block(multiplied + o * panel, kBlock, count, static_cast<const State*>(nullptr), kBlock, out + o * plane);
      }
    }
  }
}

// What the entries of cell.inl call.
struct InFloats {
  template <typename State>
  static void products(const CellTerm& term, const State* const* input, int next, float* filtered, State* products,
                       float* scratch) {
    separable_products(term, input, next, filtered, products, scratch);
  }
  template <typename State>
  static void gradient(const CellTerm& term, const CellGradientOf<State>& args, float* scratch) {
    if (has_window(term)) {
      depthwise_gradient(term, args, scratch);
    } else {
      pointwise_gradient(term, args, scratch);
    }
  }
};

}  // namespace
}  // namespace pnf::PNF_ISA
