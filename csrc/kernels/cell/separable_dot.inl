// Separable operations on states of half precision, where a word's two products take one instruction. Include after
// blocks.inl, planes.inl, correlate.inl and the node's pairs.inl and dots.inl.
//
// A plane has a word for each pixel: its value and that of the row below. So a window of k rows takes the words of every
// second row, the last one those of its last two rows, and a tap's gradient those of two rows of outputs at a time. The
// products over pixels have words of two pixels, one after another; those over channels read blocks of pixels as words of
// two channels.
namespace pnf::PNF_ISA {
namespace {

static_assert(kLanes == kBlock);

constexpr float kZeros[kTileBlocks * kBlock] = {};
constexpr int kPixelWords = kBlock / 2;  // of a pixel's 16 channels

// Two rows of words at a time.
struct RowPair {
  static constexpr int kRows = 2;
  static constexpr bool kSpread = true;
  PNF_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return dot(a, b, sum); }
};

PNF_INLINE std::ptrdiff_t whole_lines(std::ptrdiff_t words) { return (words + kBlock - 1) / kBlock * kBlock; }

// Words that hold so many pixels as they are, and in pairs.
PNF_INLINE std::ptrdiff_t natural_words(std::ptrdiff_t pixels) { return whole_lines(pixels * kPixelWords); }
PNF_INLINE std::ptrdiff_t pair_words(std::ptrdiff_t pixels) { return (pixels + 1) / 2 * kBlock; }

// Pixels [pixels][16] in pairs; the last one of an odd number is beside zeros.
PNF_INLINE void pair_pixels(const Bf16* in, int pixels, float* out) {
  int p = 0;
  for (; p + 2 <= pixels; p += 2) store(out + p * kPixelWords, across(load_two(in + p * kBlock)));
  if (p < pixels) store(out + p * kPixelWords, pair(load(in + p * kBlock), splat(0.0f)));
}

// The activations of pixels `step` elements apart, to [pixels][16].
PNF_INLINE void activate_pixels(const Bf16* in, std::ptrdiff_t step, int channels, int pixels, const float* slope,
                                Bf16* out) {
  if (channels < kBlock) {
    load_block(in, step, channels, pixels, out);
    in = out;
    step = kBlock;
  }
  const TwoSlopes slopes = two_slopes(slope);
  int p = 0;
  if (step == kBlock) {
    for (; p + 2 <= pixels; p += 2) store_two(out + p * kBlock, prelu_two(load_two(in + p * kBlock), slopes));
  } else {
    for (; p + 2 <= pixels; p += 2) {
      store_two(out + p * kBlock, prelu_two(load_each(in + p * step, in + (p + 1) * step), slopes));
    }
  }
  if (p < pixels) store(out + p * kBlock, prelu(load(in + p * step), load(slope)));
}

// Activations of a kernel of 1 of one block, [count][16].
PNF_INLINE void activate_chunk(const CellTerm& term, const Bf16* const* input, int block, int begin, int count,
                               Bf16* out) {
  const PartBlock here = part_block(term, block);
  runs_of(term, begin, count, [&](int pixel, int source, int pixels) {
    activate_pixels(input[here.part] + static_cast<std::ptrdiff_t>(source) * term.part_channels + here.first,
                    static_cast<std::ptrdiff_t>(term.stride) * term.part_channels, here.channels, pixels,
                    term.slope + block * kBlock, out + (pixel - begin) * kBlock);
  });
}

// out[block o] = sum over panels of a[panel] weights[o][panel]
void multiply_pairs(const Bf16* a, std::ptrdiff_t a_panel, int panels, const float* weights, int out_blocks, int pixels,
                    Bf16* out, std::ptrdiff_t out_panel, Prefetch& prefetch) {
  const std::ptrdiff_t per_block = static_cast<std::ptrdiff_t>(panels) * kPanelWords<Bf16>;
  const int tiles = tiles_of(pixels), size = pixels / tiles, larger = pixels % tiles;
  for (int block = 0; block < out_blocks;) {
    const int here = out_blocks - block < kTileBlocks ? 1 : kTileBlocks;
    const Run run = {reinterpret_cast<const float*>(a), a_panel / 2, weights + block * per_block, per_block, panels};
    const TileOutOf<Bf16> target = {kZeros, nullptr, 0, nullptr, 0, out + block * out_panel, out_panel};
    for (int t = 0, pixel = 0; t < tiles; ++t) {
      const int count = size + (t < larger ? 1 : 0);
      prefetch.step();
      if (here == 1) {
        dot_tile_of<1, kTilePixels>(count, &run, 1, target, pixel);
      } else {
        dot_tile_of<kTileBlocks, kTilePixels>(count, &run, 1, target, pixel);
      }
      pixel += count;
    }
    block += here;
  }
}

// How many steps multiply_pairs() takes with what is ahead of it.
int multiply_pairs_steps(int out_blocks, int pixels) {
  return (out_blocks / kTileBlocks + out_blocks % kTileBlocks) * tiles_of(pixels);
}

// out[o][c] += sum over pairs of pixels of gradient[pair][o] * in[pair][c]
void outer_block_pairs(const float* gradient, const float* in, int pairs, double* out) {
  Vec acc[kBlock];
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; ++r) acc[r] = splat(0.0f);
#pragma GCC unroll 1
  for (int p = 0; p < pairs; ++p) {
    const Vec x = load(in + p * kBlock);
#pragma GCC unroll 16
    for (int r = 0; r < kBlock; ++r) acc[r] = dot_word(gradient + p * kBlock + r, x, acc[r]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; ++r) flush(acc[r], out + r * kBlock);
}

// The gradient of the products of one chunk: as it is, [out_blocks][chunk][16], and in pairs of pixels.
void product_gradients_in_pairs(const CellTerm& term, const CellGradientOf<Bf16>& args, int begin, int count,
                                std::ptrdiff_t panel, Bf16* out, std::ptrdiff_t pair_panel, float* pairs) {
  for (int block = 0; block < term.out_blocks; ++block) {
    const int channels = channels_in(block, term.out_channels), lane = block * kBlock;
    BlockReader<Bf16> gradients(view_of(args.gradient), block, channels), products(args.products, block, channels);
    const Vec by_gradient = load(args.by_gradient + lane), by_product = load(args.by_product + lane);
    const Vec start = fma(mul(splat(-1.0f), load(args.mean + lane)), by_product, load(args.constant + lane));
    for (int first = 0; first < count; first += kMomentPixels) {
      const int here = count - first < kMomentPixels ? count - first : kMomentPixels;
      const Bf16* g = gradients.at(begin + first, here);
      const Bf16* in = products.at(begin + first, here);
      Bf16* natural = out + block * panel + first * kBlock;
      float* words = pairs + block * pair_panel + first * kPixelWords;
      const auto at = [&](int p) {
        return fma(by_gradient, load(g + p * gradients.step()), fma(by_product, load(in + p * products.step()), start));
      };
      int p = 0;
      for (; p + 2 <= here; p += 2) {
        const Two two = round_two(at(p), at(p + 1));
        store_two(natural + p * kBlock, two);
        store(words + p * kPixelWords, across(two));
      }
      if (p < here) {
        const Vec last = at(p);
        store(natural + p * kBlock, last);
        store(words + p * kPixelWords, pair(last, splat(0.0f)));
      }
    }
  }
}

// Words of a row and the one below it; null for zeros.
PNF_INLINE void pair_rows_as_they_are(const Bf16* first, const Bf16* second, int pixels, float* out) {
  const auto write = [&](const auto& two, const auto& one) {
    int p = 0;
    for (; p + 2 <= pixels; p += 2) two(p, out + p * kBlock);
    if (p < pixels) one(p, out + p * kBlock);
  };
  const Vec zero = splat(0.0f);
  const Two zeros = round_two(zero, zero);
  if (first == nullptr && second == nullptr) {
    clear(out, static_cast<std::ptrdiff_t>(pixels) * kBlock);
  } else if (first == nullptr) {
    write([&](int p, float* to) { store_pairs_of_two(to, zeros, load_two(second + p * kBlock)); },
          [&](int p, float* to) { store(to, pair(zero, load(second + p * kBlock))); });
  } else if (second == nullptr) {
    write([&](int p, float* to) { store_pairs_of_two(to, load_two(first + p * kBlock), zeros); },
          [&](int p, float* to) { store(to, pair(load(first + p * kBlock), zero)); });
  } else {
    write(
        [&](int p, float* to) { store_pairs_of_two(to, load_two(first + p * kBlock), load_two(second + p * kBlock)); },
        [&](int p, float* to) { store(to, pair(load(first + p * kBlock), load(second + p * kBlock))); });
  }
}

// The words of a padded plane inside a cleared border. row_at(y, buffer) gives row y of the image, [width][16], or null
// for zeros; it may write to the buffer. `buffers` has room for two rows.
template <typename RowAt>
PNF_INLINE void pair_plane(const CellTerm& term, RowAt row_at, float* buffers, float* plane) {
  const Bf16* before = nullptr;
  for (int y = 0; y <= term.height; ++y) {
    const Bf16* const row = y < term.height ? row_at(y, halves(buffers + y % 2 * natural_words(term.width))) : nullptr;
    pair_rows_as_they_are(before, row, term.width, inside(term, plane, y - 1));
    before = row;
  }
}

// What a row of windows from row `top` of a padded plane on meets.
PNF_INLINE Taps window_taps(const CellTerm& term, const float* plane, int top, const float* weights) {
  Taps taps = {};
  taps.count = (term.kernel + 1) / 2;
  PNF_ASSERT(taps.count <= kMaxPairs);
  for (int j = 0; j < taps.count; ++j) {
    const int row = j + 1 < taps.count ? 2 * j : term.kernel - 2;
    taps.rows[j] = plane + (top + row) * padded_row(term);
    taps.weights[j] = weights + j * term.kernel * kBlock;
  }
  return taps;
}

PNF_INLINE std::ptrdiff_t depthwise_words(const CellTerm& term) {
  return static_cast<std::ptrdiff_t>((term.kernel + 1) / 2) * term.kernel * kBlock;
}

// The filtered planes of an image, [blocks][pixels][16]. The activated, padded ones are left in `activated`: one of each
// block, or the last one only where `activated_panel` is zero.
void filter_planes(const CellTerm& term, const Bf16* const* input, float* buffers, float* activated,
                   std::ptrdiff_t activated_panel, Bf16* filtered) {
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(cell_pixels(term)) * kBlock;
  const DepthwisePairRow filter = depthwise_pair_row_of<kBlock>(term.kernel, term.stride);
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    float* padded = activated + block * activated_panel;
    if (block == 0 || activated_panel > 0) clear_border(term, padded);
    const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.width) * term.part_channels;
    pair_plane(
        term,
        [&](int y, Bf16* buffer) {
          activate_pixels(input[here.part] + y * row + here.first, term.part_channels, here.channels, term.width,
                          term.slope + block * kBlock, buffer);
          return buffer;
        },
        buffers, padded);
    for (int y = 0; y < term.out_height; ++y) {
      filter(window_taps(term, padded, y * term.stride, term.depthwise + block * depthwise_words(term)), term.out_width,
             kNoMiddle, filtered + block * plane + static_cast<std::ptrdiff_t>(y) * term.out_width * kBlock);
    }
  }
}

// The gradients of a filtered plane in words: of the pixels of the input that its windows are centred on, zero elsewhere.
void spread_pairs(const CellTerm& term, const Bf16* gradient, float* buffers, float* plane) {
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(term.out_width) * kBlock;
  if (term.stride == 1) {
    pair_plane(term, [&](int y, Bf16*) { return gradient + y * row; }, buffers, plane);
    return;
  }
  const auto row_at = [&](int y, Bf16* buffer) -> const Bf16* {
    if (y % 2 != 0) return nullptr;
    const Bf16* in = gradient + y / 2 * row;
    for (int x = 0; x < term.width; ++x) {
      store(buffer + x * kBlock, x % 2 == 0 ? load(in + x / 2 * kBlock) : splat(0.0f));
    }
    return buffer;
  };
  pair_plane(term, row_at, buffers, plane);
}

void pointwise_gradient(const CellTerm& term, const CellGradientOf<Bf16>& args, float* scratch) {
  const int pixels = cell_pixels(term), chunk = cell_chunk(term);
  const std::ptrdiff_t panel = static_cast<std::ptrdiff_t>(chunk) * kBlock;
  const std::ptrdiff_t natural = natural_words(chunk), paired = pair_words(chunk);
  Bf16* const gradient = halves(scratch);
  float* const gradient_pairs = scratch + term.out_blocks * natural;
  Bf16* const by_activated = halves(gradient_pairs + term.out_blocks * paired);
  Bf16* const activated = by_activated + term.blocks * panel;  // of one block
  float* const activated_pairs = scratch + (term.out_blocks + term.blocks + 1) * natural + term.out_blocks * paired;
  float* const spare = activated_pairs + paired;
  if (term.stride > 1) start_input_gradient(term, args);
  const Bf16* const* const before = term.stride > 1 ? args.grad_input : args.before;
  for (int begin = 0; begin < pixels; begin += chunk) {
    const int count = pixels - begin < chunk ? pixels - begin : chunk;
    product_gradients_in_pairs(term, args, begin, count, panel, gradient, paired, gradient_pairs);
    for (int b = 0; b < term.blocks; ++b) {
      activate_chunk(term, args.input, b, begin, count, activated);
      pair_pixels(activated, count, activated_pairs);
      for (int o = 0; o < term.out_blocks; ++o) {
        outer_block_pairs(gradient_pairs + o * paired, activated_pairs, (count + 1) / 2,
                          args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    const int after = begin + count, left = pixels - after < chunk ? pixels - after : chunk;
    Prefetch prefetch;
    add_inputs(term, before, begin, count, prefetch);
    add_inputs(term, args.input, after, left, prefetch);
    add_gradient(term, args, after, left, prefetch);
    prefetch.plan(multiply_pairs_steps(term.blocks, count));
    multiply_pairs(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_activated, panel,
                   prefetch);
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

void depthwise_gradient(const CellTerm& term, const CellGradientOf<Bf16>& args, float* scratch) {
  const std::ptrdiff_t pixels = cell_pixels(term), plane = pixels * kBlock;
  const std::ptrdiff_t padded = padded_floats(term), out_row = static_cast<std::ptrdiff_t>(term.out_width) * kBlock;
  const std::ptrdiff_t taps = static_cast<std::ptrdiff_t>(term.kernel) * term.kernel * kBlock;
  const int chunk_rows = chunk_rows_of(term), chunk = chunk_rows * term.out_width;
  const std::ptrdiff_t panel = 2 * natural_words(chunk), paired = pair_words(chunk);
  float* at = scratch;
  const auto take = [&at](std::ptrdiff_t words) {
    float* const taken = at;
    at += words;
    return taken;
  };
  Bf16* const gradient = halves(take(term.out_blocks * natural_words(chunk)));
  float* const gradient_pairs = take(term.out_blocks * paired);
  float* const filtered_pairs = take(paired);  // of one block
  float* const activated = take(term.blocks * padded);
  float* const spread = take(padded);
  float* const buffers = take(2 * natural_words(term.width));
  Bf16* const by_activated = halves(take(natural_words(term.width)));
  float* const spare = take(row_floats(term));
  Bf16* const filtered = halves(take(whole_lines(term.blocks * plane / 2)));
  Bf16* const by_filtered = halves(take(whole_lines(term.blocks * plane / 2)));

  filter_planes(term, args.input, buffers, activated, padded, filtered);
  for (int y = 0; y < term.out_height; y += chunk_rows) {
    const int rows = term.out_height - y < chunk_rows ? term.out_height - y : chunk_rows;
    const int count = rows * term.out_width, begin = y * term.out_width;
    product_gradients_in_pairs(term, args, begin, count, panel, gradient, paired, gradient_pairs);
    for (int b = 0; b < term.blocks; ++b) {
      pair_pixels(filtered + b * plane + y * out_row, count, filtered_pairs);
      for (int o = 0; o < term.out_blocks; ++o) {
        outer_block_pairs(gradient_pairs + o * paired, filtered_pairs, (count + 1) / 2,
                          args.grad_pointwise + (static_cast<std::ptrdiff_t>(o) * term.blocks + b) * kBlock * kBlock);
      }
    }
    Prefetch prefetch;
    add_share(term, args.before, 0, begin, count, prefetch);
    if (args.next != 0) {
      add_share(term, args.input, args.next, begin, count, prefetch);
      prefetch.add(args.gradient.data + (args.next * pixels + begin) * args.gradient.stride,
                   count * args.gradient.stride);
      if (args.products.padded) {
        for (int o = 0; o < term.out_blocks; ++o) {
          prefetch.add(args.products.data + args.next * term.out_blocks * plane + o * args.products.block + y * out_row,
                       count * kBlock);
        }
      }
    }
    prefetch.plan(multiply_pairs_steps(term.blocks, count));
    multiply_pairs(gradient, panel, term.out_blocks, term.transposed, term.blocks, count, by_filtered + y * out_row,
                   plane, prefetch);
  }
  const DepthwisePairRow filter = depthwise_pair_row_of<kBlock>(term.kernel, 1);
  const CorrelatePlane correlate = correlate_plane_of<RowPair>(term.kernel, term.stride);
  clear_border(term, spread);
  for (int block = 0; block < term.blocks; ++block) {
    const PartBlock here = part_block(term, block);
    spread_pairs(term, by_filtered + block * plane, buffers, spread);
    // At stride 2, every second word of every second row has a gradient, and nothing below it.
    correlate(term, activated + block * padded, inside(term, spread, 0), term.stride * padded_row(term),
              args.grad_depthwise + block * taps);
    for (int y = 0; y < term.height; ++y) {
      filter(window_taps(term, spread, y, term.reversed + block * depthwise_words(term)), term.width, kNoMiddle,
             by_activated);
      const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(y) * term.width * term.part_channels + here.first;
      prelu_gradient(args.input[here.part] + row, by_activated, here.channels, term.width, term.slope + block * kBlock,
                     term.part_channels, at_element(args.before[here.part], row), args.grad_input[here.part] + row,
                     args.grad_slope + block * kBlock, spare);
    }
  }
}

// What the entries of cell_dot.inl call.
struct InPairs {
  static void products(const CellTerm& term, const Bf16* const* input, int next, float* filtered, Bf16* products,
                       float* scratch) {
    const int pixels = cell_pixels(term), chunk = cell_chunk(term);
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(pixels) * kBlock;
    const std::ptrdiff_t panel = has_window(term) ? plane : static_cast<std::ptrdiff_t>(chunk) * kBlock;
    if (has_window(term)) {
      filter_planes(term, input, scratch, scratch + 2 * natural_words(term.width), 0, halves(filtered));
    }
    for (int begin = 0; begin < pixels; begin += chunk) {
      const int count = pixels - begin < chunk ? pixels - begin : chunk;
      const Bf16* panels = halves(filtered) + static_cast<std::ptrdiff_t>(begin) * kBlock;
      Prefetch prefetch;
      if (!has_window(term)) {
        Bf16* const activated = halves(scratch);
        for (int block = 0; block < term.blocks; ++block) {
          activate_chunk(term, input, block, begin, count, activated + block * panel);
        }
        panels = activated;
        const int after = begin + count, left = pixels - after;
        add_inputs(term, input, after, left < chunk ? left : chunk, prefetch);
      } else if (next != 0) {
        add_share(term, input, next, begin, count, prefetch);
      }
      prefetch.plan(multiply_pairs_steps(term.out_blocks, count));
      multiply_pairs(panels, panel, term.blocks, term.pointwise, term.out_blocks, count,
                     products + static_cast<std::ptrdiff_t>(begin) * kBlock, plane, prefetch);
    }
  }

  static void gradient(const CellTerm& term, const CellGradientOf<Bf16>& args, float* scratch) {
    if (has_window(term)) {
      depthwise_gradient(term, args, scratch);
    } else {
      pointwise_gradient(term, args, scratch);
    }
  }
};

}  // namespace
}  // namespace pnf::PNF_ISA
