// Every kind of term, alone and in sums, on every available instruction set, against the equation of node.h
// evaluated in float64.
#include "kernels/node/node.h"

#include <algorithm>
#include <string>

#include "check.h"
#include "kernels/dispatch.h"
#include "support.h"

namespace pnf::test {
namespace {

struct TermCase {
  TermKind kind;
  int kernel;
  int stride;
  int shift;
  int channels;  // of the input; pooling and identity: as the output
  int height, width;
  int first_out, out_blocks;
  bool cap = false, middle = false;
};

struct NodeCase {
  int height, width, channels;
  std::vector<TermCase> terms;
  bool inactive = false;  // no term has an activation before it

  std::string describe() const {
    std::string text = std::to_string(channels) + "x" + std::to_string(height) + "x" + std::to_string(width) + " =";
    for (const TermCase& t : terms) {
      constexpr const char* kNames[] = {"pw", "dw", "max", "avg", "id", "2x2 pw", "dw alone", "up", "dw 2x2"};
      text += std::string(" ") + kNames[static_cast<int>(t.kind)] + " k" + std::to_string(t.kernel) + "/" +
              std::to_string(t.stride) + "+" + std::to_string(t.shift) + "(" + std::to_string(t.channels) + "x" +
              std::to_string(t.height) + "x" + std::to_string(t.width) + ")@" + std::to_string(t.first_out) + "+" +
              std::to_string(t.out_blocks) + (t.cap ? " capped" : "") + (t.middle ? " middle" : "");
    }
    return text;
  }
};

bool is_product(TermKind kind) {
  return kind == TermKind::kPointwise || kind == TermKind::kDepthwise || kind == TermKind::kPooledPointwise ||
         kind == TermKind::kDepthwisePooled;
}
bool is_window(TermKind kind) {
  return kind == TermKind::kDepthwise || kind == TermKind::kDepthwiseAlone || kind == TermKind::kDepthwisePooled;
}
bool is_active(TermKind kind) { return is_product(kind) || is_window(kind); }
bool is_pool(TermKind kind) { return kind == TermKind::kMaxPool || kind == TermKind::kAvgPool; }

// A term's operands as the equation names them; weights of channels that do not exist are absent.
struct TermData {
  std::vector<float> input;      // [channels][height][width]
  std::vector<float> slope;      // [channels]
  std::vector<float> depthwise;  // [channels][kernel * kernel]
  std::vector<float> pointwise;  // [outputs][channels]
  std::vector<float> scale;      // [channels]
  std::vector<float> cap;        // [channels]
  std::vector<float> middle;     // [3][channels]: bias, slope, cap
  int first_output, outputs;     // in channels
  bool relu = false;             // whether `middle` is one
};

TermData draw(const NodeCase& node, const TermCase& term, Random& random) {
  TermData data;
  const auto channels = static_cast<std::size_t>(term.channels);
  data.first_output = term.first_out * kBlock;
  data.outputs = std::min(term.out_blocks * kBlock, node.channels - data.first_output);
  data.input = random.reals(channels * term.height * term.width, -2.0f, 2.0f);
  data.slope = random.reals(channels, -0.5f, 1.5f);
  data.depthwise = random.reals(channels * term.kernel * term.kernel, -1.0f, 1.0f);
  data.pointwise = random.reals(channels * data.outputs, -1.0f, 1.0f);
  data.scale = random.reals(channels, -2.0f, 2.0f);
  data.cap = random.reals(channels, 0.25f, 1.5f);
  data.middle = random.reals(2 * channels, -0.5f, 1.5f);
  const std::vector<float> caps = random.reals(channels, 0.25f, 3.0f);
  data.middle.insert(data.middle.end(), caps.begin(), caps.end());
  // What kernels have a shorter way for: no activation, and ReLU.
  if (node.inactive || random.chance(3)) std::fill(data.slope.begin(), data.slope.end(), 1.0f);
  data.relu = random.chance(3);
  if (data.relu) {
    std::fill_n(data.middle.begin() + channels, channels, 0.0f);
    std::fill_n(data.middle.begin() + 2 * channels, channels, std::numeric_limits<float>::max());
  }
  return data;
}

double prelu(double x, double slope) { return std::signbit(x) ? x * slope : x; }

// A NaN stays one.
double at_most(double x, double cap) { return x > cap ? cap : x; }

void evaluate_upsampled(const TermCase& term, const TermData& data, int y, int x, Exact* out) {
  for (int c = 0; c < term.channels; ++c) {
    out[c].add(data.input[(static_cast<std::size_t>(c) * term.height + y / 2) * term.width + x / 2]);
  }
}

// Adds the term's contribution to output pixel (y, x), given as one Exact per output channel.
void evaluate(const TermCase& term, const TermData& data, int y, int x, Exact* out) {
  if (term.kind == TermKind::kUpsampled) return evaluate_upsampled(term, data, y, x, out);
  // A pooled product reads windows of 2 x 2.
  const bool pooled = term.kind == TermKind::kPooledPointwise;
  const int pad = term.kernel / 2, window = pooled ? 2 : term.kernel;
  for (int c = 0; c < term.channels; ++c) {
    const float* plane = data.input.data() + static_cast<std::size_t>(c) * term.height * term.width;
    Exact sum;
    double largest = -std::numeric_limits<double>::infinity();
    int count = 0;
    const auto active = [&](double value) {
      const double positive = prelu(value, data.slope[c]);
      return term.cap ? at_most(positive, data.cap[c]) : positive;
    };
    // A convolution's result at (oy, ox), and what becomes of it.
    const auto filtered = [&](int oy, int ox, int stride) {
      Exact result;
      for (int ky = 0; ky < term.kernel; ++ky) {
        for (int kx = 0; kx < term.kernel; ++kx) {
          const int iy = oy * stride + ky - pad, ix = ox * stride + kx - pad;
          if (iy < 0 || iy >= term.height || ix < 0 || ix >= term.width) continue;
          result.add(data.depthwise[(c * term.kernel + ky) * term.kernel + kx] * active(plane[iy * term.width + ix]));
        }
      }
      if (!term.middle) return result;
      const float* const middle = data.middle.data() + c;
      const double slope = middle[term.channels];
      result.add(middle[0]);
      result.value = at_most(prelu(result.value, slope), middle[2 * term.channels]);
      result.magnitude *= std::max(1.0, std::abs(slope));
      return result;
    };
    if (term.kind == TermKind::kDepthwisePooled) {
      sum.value = -std::numeric_limits<double>::infinity();
      for (int i = 0; i < 4; ++i) {
        const Exact one = filtered(2 * y + i / 2, 2 * x + i % 2, 1);
        sum.value = std::isnan(one.value) || one.value > sum.value ? one.value : sum.value;
        // Whichever is taken for the largest, its error is no larger than the largest one's.
        sum.magnitude = std::max(sum.magnitude, one.magnitude);
      }
    } else if (is_window(term.kind)) {
      sum = filtered(y, x, term.stride);
    }
    for (int ky = 0; ky < window && !is_window(term.kind); ++ky) {
      for (int kx = 0; kx < window; ++kx) {
        const int iy = y * term.stride + term.shift + ky - pad;
        const int ix = x * term.stride + term.shift + kx - pad;
        if (iy < 0 || iy >= term.height || ix < 0 || ix >= term.width) continue;
        const double value = plane[iy * term.width + ix];
        ++count;
        // A comparison alone would drop a NaN that is not the first value.
        largest = std::isnan(value) || value > largest ? value : largest;
        if (!pooled) sum.add(is_active(term.kind) ? active(value) : value);
      }
    }
    if (pooled) sum.add(active(largest));
    switch (term.kind) {
      case TermKind::kPointwise:
      case TermKind::kDepthwise:
      case TermKind::kPooledPointwise:
      case TermKind::kDepthwisePooled:
        for (int o = 0; o < data.outputs; ++o) {
          const double weight = data.pointwise[static_cast<std::size_t>(o) * term.channels + c];
          out[data.first_output + o].add(weight * sum.value, std::abs(weight) * sum.magnitude);
        }
        break;
      case TermKind::kMaxPool:
        out[c].add(data.scale[c] * largest);
        break;
      case TermKind::kAvgPool:
        out[c].add(data.scale[c] * sum.value / count, std::abs(data.scale[c]) * sum.magnitude / count);
        break;
      case TermKind::kIdentity:
      case TermKind::kUpsampled:
        out[c].add(sum.value);
        break;
      case TermKind::kDepthwiseAlone:
        out[c].add(sum.value, sum.magnitude);
        break;
    }
  }
}

// Whether a depthwise window of output (channel, y, x), or a row beside it, holds what is not finite: kernels of half
// precision take rows by pairs, and zero times that is no zero.
bool unusual_beside(const NodeCase& node, const std::vector<TermData>& data, int channel, int y, int x) {
  for (std::size_t t = 0; t < node.terms.size(); ++t) {
    const TermCase& term = node.terms[t];
    const int output = channel - data[t].first_output, pad = term.kernel / 2;
    if (!is_window(term.kind) || output < 0 || output >= data[t].outputs) continue;
    const int more = term.kind == TermKind::kDepthwisePooled ? 1 : 0;
    for (int iy = y * term.stride - pad - 1; iy <= y * term.stride + pad + 1 + more; ++iy) {
      for (int ix = x * term.stride - pad; ix <= x * term.stride + pad + more; ++ix) {
        if (iy < 0 || iy >= term.height || ix < 0 || ix >= term.width) continue;
        for (int c = 0; c < term.channels; ++c) {
          if (!std::isfinite(data[t].input[(static_cast<std::size_t>(c) * term.height + iy) * term.width + ix]))
            return true;
        }
      }
    }
  }
  return false;
}

std::vector<Exact> evaluate(const NodeCase& node, const std::vector<TermData>& data, const std::vector<float>& bias) {
  std::vector<Exact> out(static_cast<std::size_t>(node.height) * node.width * node.channels);
  Exact* pixel = out.data();
  for (int y = 0; y < node.height; ++y) {
    for (int x = 0; x < node.width; ++x, pixel += node.channels) {
      for (int c = 0; c < node.channels; ++c) pixel[c].add(bias[c]);
      for (std::size_t t = 0; t < node.terms.size(); ++t) evaluate(node.terms[t], data[t], y, x, pixel);
    }
  }
  return out;
}

// The bound of node.h.
int roundings(const NodeCase& node) {
  int window = 1, panels = 0;
  for (const TermCase& term : node.terms) {
    window = std::max(window, term.kernel * term.kernel);
    if (is_product(term.kind)) panels += blocks_of(term.channels);
  }
  return window + kBlock * panels + static_cast<int>(node.terms.size()) + 6;
}

// A term's operands as node.h lays them out.
template <typename State>
struct PackedTerm {
  static constexpr bool kPairs = sizeof(State) < sizeof(float);
  ConstantsOf<State> input;
  Constants slope, depthwise, pointwise, scale, cap, middle;

  PackedTerm(const TermCase& term, const TermData& data, bool misaligned)
      : input(to_blocks(data.input, term.channels, term.height * term.width), misaligned),
        slope(to_blocks(data.slope, term.channels, 1), misaligned),
        depthwise(kPairs ? pair_taps(term, data) : to_blocks(data.depthwise, term.channels, term.kernel * term.kernel),
                  misaligned),
        pointwise(kPairs ? pair_inputs(pack_pointwise(term, data)) : pack_pointwise(term, data), misaligned),
        scale(to_blocks(data.scale, term.channels, 1), misaligned),
        cap(to_blocks(data.cap, term.channels, 1), misaligned),
        middle(pack_middle(term, data), misaligned) {}

  static std::vector<float> pack_middle(const TermCase& term, const TermData& data) {
    std::vector<float> packed(static_cast<std::size_t>(blocks_of(term.channels)) * 3 * kBlock, 0.0f);
    for (int c = 0; c < term.channels; ++c) {
      for (int i = 0; i < 3; ++i)
        packed[(c / kBlock * 3 + i) * kBlock + c % kBlock] = data.middle[i * term.channels + c];
    }
    return packed;
  }

  static std::vector<float> pack_pointwise(const TermCase& term, const TermData& data) {
    const int blocks = blocks_of(term.channels);
    std::vector<float> packed(static_cast<std::size_t>(term.out_blocks) * blocks * kBlock * kBlock, 0.0f);
    for (int o = 0; o < data.outputs; ++o) {
      for (int c = 0; c < term.channels; ++c) {
        const std::size_t panel = static_cast<std::size_t>(o / kBlock) * blocks + c / kBlock;
        packed[(panel * kBlock + c % kBlock) * kBlock + o % kBlock] =
            data.pointwise[static_cast<std::size_t>(o) * term.channels + c];
      }
    }
    return packed;
  }

  // Rows 2 j and 2 j + 1 of the window share a word; the last one has a zero before it.
  static std::vector<float> pair_taps(const TermCase& term, const TermData& data) {
    const int pairs = (term.kernel + 1) / 2;
    std::vector<float> words(static_cast<std::size_t>(blocks_of(term.channels)) * pairs * term.kernel * kBlock, 0.0f);
    for (int c = 0; c < term.channels; ++c) {
      for (int j = 0; j < pairs; ++j) {
        for (int kx = 0; kx < term.kernel; ++kx) {
          const auto tap = [&](int ky) { return data.depthwise[(c * term.kernel + ky) * term.kernel + kx]; };
          const bool last = j + 1 == pairs;
          words[((c / kBlock * pairs + j) * term.kernel + kx) * kBlock + c % kBlock] =
              pair_word(last ? 0.0f : tap(2 * j), tap(last ? term.kernel - 1 : 2 * j + 1));
        }
      }
    }
    return words;
  }

  static std::vector<float> pair_inputs(const std::vector<float>& packed) {
    std::vector<float> words;
    for (std::size_t i = 0; i < packed.size(); i += 2 * kBlock) {
      for (int o = 0; o < kBlock; ++o) words.push_back(pair_word(packed[i + o], packed[i + kBlock + o]));
    }
    return words;
  }
};

struct Layout {
  bool misaligned;
  int surplus_rows;  // rows of other data between the blocks of the output
  bool wide_units;
};

template <typename State>
void run_in(const NodeCase& test, std::vector<TermData> data, const std::vector<float>& bias, const Layout& layout,
            Random& random) {
  const auto& sets = kernel_sets(State{});
  if (std::none_of(sets.begin(), sets.end(), [](const auto& set) { return is_tested(set); })) return;
  for (TermData& d : data) {
    d.input = rounded<State>(d.input);
    d.depthwise = rounded<State>(d.depthwise);
    d.pointwise = rounded<State>(d.pointwise);
  }
  const std::vector<Exact> expected = evaluate(test, data, bias);
  // In half precision: PReLU's result, the depthwise one, the sum.
  const int blocks = blocks_of(test.channels), bound = roundings(test), halvings = sizeof(State) == 4 ? 0 : 3;
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(test.width) * kBlock;
  const std::ptrdiff_t block_stride = (test.height + layout.surplus_rows) * row;

  std::vector<PackedTerm<State>> packed;
  for (std::size_t t = 0; t < test.terms.size(); ++t) packed.emplace_back(test.terms[t], data[t], layout.misaligned);
  const Constants packed_bias(to_blocks(bias, test.channels, 1), layout.misaligned);
  RowsOf<State> whole(blocks, block_stride, row, layout.misaligned),
      parts(blocks, block_stride, row, layout.misaligned);

  NodeOf<State> node;
  Node sized;
  node.height = test.height;
  node.width = test.width;
  node.blocks = blocks;
  node.block_stride = block_stride;
  node.bias = packed_bias.get();
  node.terms = static_cast<int>(test.terms.size());
  node.wide_units = layout.wide_units;
  for (int t = 0; t < node.terms; ++t) {
    const TermCase& c = test.terms[t];
    const PackedTerm<State>& p = packed[t];
    node.term[t] = {c.kind,
                    c.kernel,
                    c.stride,
                    c.shift,
                    c.height,
                    c.width,
                    blocks_of(c.channels),
                    c.first_out,
                    c.out_blocks,
                    p.input.get(),
                    static_cast<std::ptrdiff_t>(c.height) * c.width * kBlock,
                    is_active(c.kind) ? p.slope.get() : nullptr,
                    is_window(c.kind) ? p.depthwise.get() : nullptr,
                    is_product(c.kind) ? p.pointwise.get() : nullptr,
                    is_pool(c.kind) ? p.scale.get() : nullptr,
                    c.cap ? p.cap.get() : nullptr,
                    c.middle ? p.middle.get() : nullptr};
  }
  sized.height = node.height;
  sized.width = node.width;
  sized.blocks = node.blocks;
  sized.terms = node.terms;
  for (int t = 0; t < node.terms; ++t) {
    sized.term[t].kind = node.term[t].kind;
    sized.term[t].kernel = node.term[t].kernel;
    sized.term[t].width = node.term[t].width;
    sized.term[t].blocks = node.term[t].blocks;
  }
  Guarded scratch_memory(node_scratch(sized), layout.misaligned);

  for (const auto& set : sets) {
    if (!is_tested(set)) continue;
    const std::string name = std::string(set.name) + (halvings > 0 ? " half " : " ") + test.describe();
    const auto rows = [&](RowsOf<State>& output, int begin, int end) {
      output.write(scratch_memory, name, [&](State* out, float* scratch) {
        node.output = out;
        set.node_rows(node, begin, end, scratch);
      });
      if (set.name == std::string("amx_bf16")) CHECK(!tiles_in_use(), "%s leaves its tiles", name.c_str());
    };

    whole.poison();
    rows(whole, 0, test.height);
    CHECK(whole.untouched_outside(0, test.height), "%s writes between its blocks", name.c_str());
    for (int y = 0; y < test.height; ++y) {
      for (int x = 0; x < test.width; ++x) {
        const Exact* pixel = expected.data() + (static_cast<std::ptrdiff_t>(y) * test.width + x) * test.channels;
        const bool finite =
            std::all_of(pixel, pixel + test.channels, [](const Exact& e) { return std::isfinite(e.value); });
        for (int c = 0; c < blocks * kBlock; ++c) {
          const float actual = to_float(whole.get()[c / kBlock * block_stride + y * row + x * kBlock + c % kBlock]);
          if (halvings > 0 && !std::isfinite(actual) &&
              unusual_beside(test, data, std::min(c, test.channels - 1), y, x)) {
            continue;
          }
          if (c < test.channels) {
            CHECK(within(actual, pixel[c], bound, halvings),
                  "%s: channel %d of (%d, %d) is %.9g, not %.9g; bound %d of %g", name.c_str(), c, y, x, actual,
                  pixel[c].value, bound, pixel[c].magnitude);
          } else if (finite) {
            CHECK(actual == 0.0f, "%s: surplus channel %d of (%d, %d) is %g", name.c_str(), c, y, x, actual);
          }
        }
      }
    }

    parts.poison();
    const int first = random.integer(0, test.height), second = random.integer(first, test.height);
    rows(parts, first, second);
    CHECK(parts.untouched_outside(first, second), "%s writes rows besides [%d, %d)", name.c_str(), first, second);
    rows(parts, 0, first);
    rows(parts, second, test.height);
    CHECK(same_bits(whole.get(), parts.get(), whole.size()), "%s depends on how its rows are taken: %d, %d",
          name.c_str(), first, second);
  }
}

void run(const NodeCase& test, const std::vector<TermData>& data, const std::vector<float>& bias, const Layout& layout,
         Random& random) {
  run_in<float>(test, data, bias, layout, random);
  run_in<Bf16>(test, data, bias, layout, random);
}

void run(NodeCase test, Random& random) {
  for (TermCase& term : test.terms) {
    term.cap = is_active(term.kind) && !test.inactive && random.chance(3);
    term.middle = term.kind == TermKind::kDepthwiseAlone || (is_window(term.kind) && random.chance(2));
  }
  std::vector<TermData> data;
  for (const TermCase& term : test.terms) data.push_back(draw(test, term, random));
  const std::vector<float> bias = random.reals(test.channels, -1.0f, 1.0f);
  const Layout layout = {random.chance(2), random.integer(0, 2), random.chance(2)};
  run(test, data, bias, layout, random);

  // One pixel that is no number reaches the outputs that read it, and no other.
  constexpr float kUnusual[] = {kNan, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  // Of an infinity ReLU makes zero or, as zero times infinity, no number.
  const bool relu = std::any_of(data.begin(), data.end(), [](const TermData& d) { return d.relu; });
  std::vector<float>& input = data[random.integer(0, static_cast<int>(data.size()) - 1)].input;
  input[random.integer(0, static_cast<int>(input.size()) - 1)] = relu ? kNan : random.pick(kUnusual);
  run(test, data, bias, layout, random);
}

struct Operation {
  TermKind kind;
  int kernel, stride, shift;
  bool upsamples() const { return kind == TermKind::kUpsampled; }
  // Of its input.
  bool needs_even_sides() const {
    return shift != 0 || kind == TermKind::kPooledPointwise || kind == TermKind::kDepthwisePooled;
  }
};

constexpr Operation kOperations[] = {
    {TermKind::kPointwise, 1, 1, 0},       {TermKind::kPointwise, 1, 2, 0},       {TermKind::kPointwise, 1, 2, 1},
    {TermKind::kDepthwise, 3, 1, 0},       {TermKind::kDepthwise, 3, 2, 0},       {TermKind::kDepthwise, 5, 1, 0},
    {TermKind::kDepthwise, 5, 2, 0},       {TermKind::kDepthwise, 7, 1, 0},       {TermKind::kDepthwise, 7, 2, 0},
    {TermKind::kMaxPool, 3, 1, 0},         {TermKind::kMaxPool, 3, 2, 0},         {TermKind::kAvgPool, 3, 1, 0},
    {TermKind::kAvgPool, 3, 2, 0},         {TermKind::kIdentity, 1, 1, 0},        {TermKind::kPooledPointwise, 1, 2, 0},
    {TermKind::kDepthwiseAlone, 3, 1, 0},  {TermKind::kDepthwiseAlone, 5, 2, 0},  {TermKind::kUpsampled, 1, 1, 0},
    {TermKind::kDepthwisePooled, 3, 2, 0}, {TermKind::kDepthwisePooled, 5, 2, 0},
};

// Most terms are narrow, so that a test takes no minute; some have up to six blocks.
constexpr int kMostInputs[] = {36, 36, 36, 96};

constexpr int kSides[] = {1, 2, 3, 5, 7, 13, 15, 29, 57};

int output_side(const Operation& op, int input) {
  return op.upsamples() ? 2 * input : (input + op.stride - 1) / op.stride;
}

// The side of an input whose output side is `output`, which an upsampled input needs to be even.
int input_side(const Operation& op, int output, Random& random) {
  if (op.upsamples()) return output / 2;
  if (op.stride == 1) return output;
  return output * 2 - (!op.needs_even_sides() && random.chance(2) ? 1 : 0);
}

TermCase term_of(const Operation& op, int channels, int height, int width, int first_out, int out_blocks) {
  return {op.kind, op.kernel, op.stride, op.shift, channels, height, width, first_out, out_blocks};
}

void each_operation_alone() {
  Random random(1);
  for (const Operation& op : kOperations) {
    for (const int high : kSides) {
      for (const int wide : kSides) {
        const int odd = op.needs_even_sides() ? 1 : 0, height = high + odd * high % 2, width = wide + odd * wide % 2;
        // Both wide and high says nothing that a wide and a high image do not.
        if (height * width > 450 || !random.chance(kOneCaseIn)) continue;
        const int channels = random.integer(1, 36);
        const int inputs = is_product(op.kind) ? random.integer(1, 36) : channels;
        run({output_side(op, height),
             output_side(op, width),
             channels,
             {term_of(op, inputs, height, width, 0, blocks_of(channels))}},
            random);
      }
    }
  }
}

// Sums of what may be read as it lies, and at times of another term, in rows of several tiles.
void inactive_sums() {
  Random random(6);
  constexpr Operation kInPlace[] = {{TermKind::kDepthwise, 3, 1, 0},
                                    {TermKind::kDepthwisePooled, 3, 2, 0},
                                    {TermKind::kPointwise, 1, 1, 0},
                                    {TermKind::kIdentity, 1, 1, 0}};
  for (const int width : {1, 2, 7, 13, 14, 15, 27, 28, 29, 46, 61, 75}) {
    for (const int height : {1, 2, 5}) {
      for (int terms = 1; terms <= 4; ++terms) {
        if (!random.chance(kOneCaseIn)) continue;
        NodeCase test = {height, width, random.integer(1, 70), {}, true};
        const int blocks = blocks_of(test.channels);
        for (int t = 0; t < terms; ++t) {
          const Operation& op = t == 0 ? kInPlace[random.integer(0, 1)]
                                       : (random.chance(8) ? random.pick(kOperations) : random.pick(kInPlace));
          if (op.upsamples() && (height % 2 != 0 || width % 2 != 0)) continue;
          const bool partial = is_product(op.kind) && random.chance(3);
          const int first = partial ? random.integer(0, blocks - 1) : 0;
          test.terms.push_back(
              term_of(op, is_product(op.kind) ? random.integer(1, random.pick(kMostInputs)) : test.channels,
                      input_side(op, height, random), input_side(op, width, random), first,
                      partial ? random.integer(1, blocks - first) : blocks));
        }
        run(test, random);
      }
      const int channels = random.integer(1, 70);
      const Operation alone = {TermKind::kDepthwiseAlone, 3, 1, 0};
      run({height, width, channels, {term_of(alone, channels, height, width, 0, blocks_of(channels))}, true}, random);
    }
  }
}

// Sums for all outputs in rows of whole chunks, whose next rows may be prepared beside the products of these.
void interleaved_sums() {
  Random random(7);
  for (const int width : {14, 28, 42, 56}) {
    for (const int height : {1, 2, 3, 4, 7}) {
      for (int terms = 1; terms <= 5; ++terms) {
        if (!random.chance(kOneCaseIn)) continue;
        NodeCase test = {height, width, random.integer(1, 70), {}};
        const int blocks = blocks_of(test.channels);
        for (int t = 0; t < terms; ++t) {
          const Operation& op = random.pick(kOperations);
          if (op.upsamples() && (height % 2 != 0 || width % 2 != 0)) continue;
          const int inputs = is_product(op.kind) ? random.integer(1, random.pick(kMostInputs)) : test.channels;
          test.terms.push_back(
              term_of(op, inputs, input_side(op, height, random), input_side(op, width, random), 0, blocks));
        }
        if (!test.terms.empty()) run(test, random);
      }
    }
  }
}

// The two convolutions of a factorised reduction: disjoint output blocks, the second one pixel further.
void factorised_reductions() {
  Random random(2);
  for (const int side : {1, 2, 4, 7, 14, 28}) {
    for (const int channels : {32, 64, 50}) {
      const int half = blocks_of(channels) / 2;
      run({side,
           side + 1,
           channels,
           {term_of({TermKind::kPointwise, 1, 2, 0}, 20, 2 * side, 2 * side + 2, 0, half),
            term_of({TermKind::kPointwise, 1, 2, 1}, 20, 2 * side, 2 * side + 2, half, blocks_of(channels) - half)}},
          random);
    }
  }
}

void random_sums() {
  Random random(3);
  for (int terms = 1; terms <= kMaxTerms; ++terms) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      NodeCase test;
      test.height = random.pick(kSides);
      test.width = random.pick(kSides);
      if (test.height * test.width > 250 || !random.chance(kOneCaseIn)) continue;
      test.channels = random.integer(1, 52);
      const int blocks = blocks_of(test.channels);
      for (int t = 0; t < terms; ++t) {
        const Operation& drawn = random.pick(kOperations);
        const bool odd = test.height % 2 != 0 || test.width % 2 != 0;
        const Operation& op = drawn.upsamples() && odd ? kOperations[0] : drawn;
        const bool partial = is_product(op.kind) && random.chance(3);
        const int first = partial ? random.integer(0, blocks - 1) : 0;
        test.terms.push_back(term_of(op,
                                     is_product(op.kind) ? random.integer(1, random.pick(kMostInputs)) : test.channels,
                                     input_side(op, test.height, random), input_side(op, test.width, random), first,
                                     partial ? random.integer(1, blocks - first) : blocks));
      }
      run(test, random);
    }
  }
}

// As many terms as a node can have, each a convolution of an odd number of blocks of inputs: then the kernels with tiles
// keep the most of what lies in arrays of fixed size. First with the outputs in common, as in the pre-processing that
// reads a concatenation; then so that no two terms have the same ones, and all have one block in common.
void the_most_terms() {
  Random random(4);
  constexpr Operation kConvolutions[] = {kOperations[0], kOperations[1], kOperations[3], kOperations[7]};
  for (const int terms : {11, kMaxTerms - 1, kMaxTerms}) {
    for (const bool alike : {true, false}) {
      for (const int inputs : {3, 2, 5}) {
        NodeCase test = {3, 4, (alike ? 3 : 9) * kBlock - random.integer(0, kBlock - 1), {}};
        const int blocks = blocks_of(test.channels), common = blocks / 2;
        for (int t = 0; t < terms; ++t) {
          const Operation& op = alike ? kOperations[0] : random.pick(kConvolutions);
          const int first = alike ? 0 : t / 4, last = alike ? blocks - 1 : common + t % 4;
          test.terms.push_back(term_of(op, inputs * kBlock - random.integer(0, kBlock - 1),
                                       input_side(op, test.height, random), input_side(op, test.width, random), first,
                                       last - first + 1));
        }
        run(test, random);
      }
    }
  }
}

// The widest rows and the most blocks that a program may have.
void the_largest_sizes() {
  constexpr int kMost = 4096;
  Random random(5);
  for (const Operation& op : kOperations) {
    const int side = op.stride * kMost / 2;
    run({output_side(op, op.stride), output_side(op, side), 17, {term_of(op, 17, op.stride, side, 0, 2)}}, random);
  }
  for (const TermKind kind : {TermKind::kPointwise, TermKind::kDepthwise}) {
    run({1, 1, 20, {term_of({kind, kind == TermKind::kPointwise ? 1 : 3, 1, 0}, kMost * kBlock, 1, 1, 0, 2)}}, random);
  }
  run({1, 1, kMost * kBlock, {term_of(kOperations[0], 20, 1, 1, 0, kMost)}}, random);
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(each_operation_alone, inactive_sums, interleaved_sums, factorised_reductions, random_sums,
                    the_most_terms, the_largest_sizes);
}
