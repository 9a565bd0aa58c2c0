#include "plan/program.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/stem/stem.h"

namespace pnf {
namespace {

constexpr int kMaxBlocks = 4096;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("damaged program: " + what); }

class Decoder {
 public:
  Decoder(std::span<const std::int32_t> words, std::size_t weights_floats, Program& program)
      : words_(words), weights_floats_(weights_floats), p_(program) {}

  void run() {
    p_.buffers.clear();
    p_.steps.clear();
    p_.terms.clear();
    p_.groups.clear();
    p_.group_words.clear();
    p_.scratch_floats = 0;
    read_sizes();
    const int buffers = next(1, 1 << 16, "number of buffers");
    const int items = next(1, 1 << 16, "number of items");
    p_.arena_floats = next(0, kMaxFloats, "arena size");
    p_.band_floats = next(0, kMaxFloats, "band size");
    if (static_cast<std::size_t>(next()) != weights_floats_) fail("it was made for another number of weights");
    p_.unit = next(0, kMaxSide, "unit of sides");
    if (p_.unit > 0 && (p_.height % p_.unit != 0 || p_.width % p_.unit != 0))
      fail("its image is no multiple of its unit");
    for (int i = 0; i < buffers; ++i) buffer();
    p_.written.assign(p_.buffers.size(), 0);
    for (int i = 0; i < items;) i += item(items - i);
    if (at_ != words_.size()) fail("words are left over");
    if (p_.steps.empty() || !is_result(p_.steps.back().kind)) fail("it does not end in its result");
    if (results_ != p_.results) fail("its result has another size");
    find_passing();
    if (p_.lane_bytes() > kMaxCallBytes) {
      fail("it needs " + std::to_string(p_.lane_bytes() >> 20) + " MiB of working memory; the limit is " +
           std::to_string(kMaxCallBytes >> 20));
    }
  }

  void read_sizes() {
    if (next() != kProgramMagic) fail("it does not start with the program's mark");
    const int version = next();
    if (version != kFloatProgram && version != kBf16Program) {
      throw std::invalid_argument("program of version " + std::to_string(version) + "; this library runs versions " +
                                  std::to_string(kFloatProgram) + " and " + std::to_string(kBf16Program));
    }
    p_.half = version == kBf16Program;
    if (static_cast<std::size_t>(next()) != words_.size()) fail("its length is not the one it states");
    p_.height = next(1, kMaxSide, "image height");
    p_.width = next(1, kMaxSide, "image width");
    p_.bgr = next(0, 1, "colour order") == 1;
    p_.results = next(1, kMaxFloats, "size of the result");
  }

 private:
  std::int32_t next() {
    if (at_ == words_.size()) fail("it ends early");
    return words_[at_++];
  }

  int next(int low, int high, const char* what) {
    const int value = next();
    if (value < low || value > high) fail(std::string(what) + " is " + std::to_string(value));
    return value;
  }

  int weights(std::int64_t floats) {
    const int offset = next();
    if (offset < 0 || static_cast<std::uint64_t>(offset + floats) > weights_floats_)
      fail("an offset leaves the weights");
    return offset;
  }

  // -1 where the term has no such operand.
  int operand(bool used, std::int64_t floats) {
    if (used) return weights(floats);
    if (next() != -1) fail("an operand that should be unused is set");
    return -1;
  }

  int optional_operand(bool may_be_used, std::int64_t floats) {
    return operand(may_be_used && at_ < words_.size() && words_[at_] != -1, floats);
  }

  void buffer() {
    Buffer b;
    b.in_band = next(0, 1, "buffer place") == 1;
    b.offset = next(0, kMaxFloats, "buffer offset");
    b.blocks = next(1, kMaxBlocks, "buffer blocks");
    b.height = next(1, kMaxSide, "buffer height");
    b.width = next(1, kMaxSide, "buffer width");
    b.rows = next(1, b.height, "buffer rows");
    if (!b.in_band && b.rows != b.height) fail("an arena buffer lacks rows");
    const std::int64_t end = b.offset + std::int64_t{b.blocks} * b.rows * b.width * kBlock;
    if (end > (b.in_band ? p_.band_floats : p_.arena_floats)) fail("a buffer leaves its memory");
    p_.buffers.push_back(b);
  }

  int buffer_index() { return next(0, static_cast<int>(p_.buffers.size()) - 1, "buffer index"); }

  int group() const { return static_cast<int>(p_.groups.size()) + 1; }

  // Of what its own group writes, a step has the rows at hand only.
  int input(int index, int group_rows, bool rows_at_hand) {
    const Buffer& b = p_.buffers[index];
    check_place(b, group_rows);
    const int written = p_.written[index];
    if (written == 0 || (b.in_band && written != group())) fail("a buffer is read that nothing has written");
    if (written == group() && !rows_at_hand) {
      if (b.in_band) fail("a group holds only the rows at hand");
      rolling_ = true;
    }
    return index;
  }

  int output(int group_rows) {
    const int index = buffer_index();
    check_place(p_.buffers[index], group_rows);
    return index;
  }

  static bool is_result(StepKind kind) { return kind == StepKind::kLinear || kind == StepKind::kMap; }

  // Returns the number of items consumed.
  int item(int left) {
    p_.group_words.push_back(at_);
    const auto kind = static_cast<StepKind>(next(0, 5, "step kind"));
    if (kind != StepKind::kGroup) {
      const int first = static_cast<int>(p_.steps.size());
      const int height = step(kind, 0);
      if (rolling_) fail("a step reads what it writes");
      p_.groups.push_back({first, 1, height, height});
      return 1;
    }
    const int rows = next(1, kMaxSide, "rows of a group");
    const int count = next(1, left - 1, "steps of a group");
    const int first = static_cast<int>(p_.steps.size());
    int height = 0;
    bool differ = false;
    for (int i = 0; i < count; ++i) {
      const auto inner = static_cast<StepKind>(next(1, 2, "step kind in a group"));
      const int here = step(inner, rows);
      differ = differ || (i > 0 && here != height);
      height = here;
    }
    if (rolling_) {
      check_rolling(first, count);
    } else if (differ) {
      fail("the steps of a group differ in height");
    }
    p_.groups.push_back({first, count, rows, height, rolling_});
    rolling_ = false;
    return count + 1;
  }

  // A step's rows may be computed long after those of the next one, so nothing is written twice, nor after it was read.
  void check_rolling(int first, int count) {
    if (count > kMaxRollingSteps) fail("a rolling group has " + std::to_string(count) + " steps");
    for (int i = first; i < first + count; ++i) {
      const int output = p_.steps[i].output;
      if (p_.buffers[output].in_band) fail("a band buffer in a rolling group");
      for (int j = first; j <= i; ++j) {
        const Step& before = p_.steps[j];
        if (j < i && before.output == output) fail("a rolling group writes a buffer twice");
        if (reads(before, output)) fail("a rolling group writes what it has read");
      }
    }
  }

  void find_passing() {
    for (const Group& group : p_.groups) {
      for (int i = 0; group.rolling && i < group.steps - 1; ++i) {
        Step& step = p_.steps[group.first_step + i];
        step.passing = !is_read_after(group, step.output);
      }
    }
  }

  bool is_read_after(const Group& group, int buffer) const {
    return std::any_of(p_.steps.begin() + group.first_step + group.steps, p_.steps.end(),
                       [&](const Step& step) { return reads(step, buffer); });
  }

  bool reads(const Step& step, int buffer) const {
    const auto first = p_.terms.begin() + step.first_term;
    return step.input == buffer ||
           std::any_of(first, first + step.terms, [&](const ProgramTerm& term) { return term.input == buffer; });
  }

  // A band buffer belongs to a group and holds as many rows as it works on.
  void check_place(const Buffer& b, int group_rows) {
    if (b.in_band && b.rows != group_rows) fail("a band buffer is used outside its group");
  }

  int step(StepKind kind, int group_rows) {
    if (results_ > 0 && kind != StepKind::kMap) fail("a step follows its result");
    Step s{};
    s.kind = kind;
    s.input = s.output = -1;
    int height = 1;
    switch (kind) {
      case StepKind::kStem: {
        s.output = output(group_rows);
        const Buffer& out = p_.buffers[s.output];
        if (out.height != (p_.height + 1) / 2 || out.width != (p_.width + 1) / 2)
          fail("the stem's output has another size");
        s.weights = weights(std::int64_t{out.blocks} * 27 * kBlock);
        s.bias = weights(std::int64_t{out.blocks} * kBlock);
        s.norm = weights(6);
        Stem stem{};
        stem.width = p_.width;
        stem.blocks = out.blocks;
        p_.scratch_floats = std::max(p_.scratch_floats, stem_scratch(stem));
        height = out.height;
        break;
      }
      case StepKind::kNode:
        height = node(s, group_rows);
        break;
      case StepKind::kGlobalDepthwise: {
        s.input = input(buffer_index(), 0, false);
        s.output = output(0);
        const Buffer& in = p_.buffers[s.input];
        const Buffer& out = p_.buffers[s.output];
        if (out.height != 1 || out.width != 1 || out.blocks != in.blocks)
          fail("the global convolution's output has another size");
        const std::int64_t channels = std::int64_t{in.blocks} * kBlock;
        s.slope = weights(channels);
        s.weights = weights(channels * in.height * in.width);
        s.bias = weights(channels);
        s.cap = optional_operand(true, channels);
        if (p_.unit > 0) fail("a global convolution is of one size of images");
        break;
      }
      case StepKind::kLinear: {
        s.input = input(buffer_index(), 0, false);
        const Buffer& in = p_.buffers[s.input];
        if (in.height != 1 || in.width != 1) fail("the embedding's input is no vector");
        if (p_.results > kMaxBlocks * kBlock) fail("embedding size is " + std::to_string(p_.results));
        const std::int64_t outputs = (p_.results + kBlock - 1) / kBlock * kBlock;
        s.weights = weights(outputs * in.blocks * kBlock);
        s.bias = weights(outputs);
        results_ += p_.results;
        break;
      }
      case StepKind::kMap: {
        s.input = input(buffer_index(), 0, false);
        const Buffer& in = p_.buffers[s.input];
        s.channels = next(1, in.blocks * kBlock, "channels of a map");
        s.first_result = static_cast<int>(results_);
        results_ += std::int64_t{in.height} * in.width * s.channels;
        if (results_ > p_.results) fail("its result has another size");
        height = in.height;
        break;
      }
      case StepKind::kGroup:
        fail("a group inside a group");
    }
    if (s.output >= 0) p_.written[s.output] = group();
    p_.steps.push_back(s);
    return height;
  }

  int node(Step& s, int group_rows) {
    s.output = output(group_rows);
    const Buffer& out = p_.buffers[s.output];
    s.bias = weights(std::int64_t{out.blocks} * kBlock);
    s.terms = next(1, kMaxTerms, "number of terms");
    s.first_term = static_cast<int>(p_.terms.size());
    Node sized{};
    sized.height = out.height;
    sized.width = out.width;
    sized.blocks = out.blocks;
    sized.terms = s.terms;
    for (int t = 0; t < s.terms; ++t) sized.term[t] = term(out, group_rows);
    p_.scratch_floats = std::max(p_.scratch_floats, node_scratch(sized));
    return out.height;
  }

  Term term(const Buffer& out, int group_rows) {
    ProgramTerm t;
    t.kind = static_cast<TermKind>(next(0, 8, "term kind"));
    const int source = buffer_index();
    t.kernel = next(1, kMaxKernel, "kernel");
    t.stride = next(1, 2, "stride");
    const bool rows_at_hand = t.stride == 1 && (t.kind == TermKind::kPointwise || t.kind == TermKind::kIdentity);
    t.input = input(source, group_rows, rows_at_hand);
    const Buffer& in = p_.buffers[t.input];
    t.shift = next(0, 1, "shift");
    t.first_out = next(0, out.blocks - 1, "first output block");
    t.out_blocks = next(1, out.blocks - t.first_out, "output blocks");
    const bool pooled = t.kind == TermKind::kPooledPointwise, upsampled = t.kind == TermKind::kUpsampled;
    const bool filter_pooled = t.kind == TermKind::kDepthwisePooled;
    const bool window = t.kind == TermKind::kDepthwise || t.kind == TermKind::kDepthwiseAlone || filter_pooled;
    const bool product = t.kind == TermKind::kPointwise || t.kind == TermKind::kDepthwise || pooled || filter_pooled;
    const bool pool = t.kind == TermKind::kMaxPool || t.kind == TermKind::kAvgPool;
    const std::int64_t channels = std::int64_t{in.blocks} * kBlock;
    t.slope = operand(product || window, channels);
    const int taps = p_.half ? (t.kernel + 1) / 2 * t.kernel : t.kernel * t.kernel;
    t.depthwise = operand(window, channels * taps);
    t.pointwise = operand(product, channels * t.out_blocks * kBlock / (p_.half ? 2 : 1));
    t.scale = operand(pool, channels);
    t.cap = optional_operand(product || window, channels);
    t.middle = t.kind == TermKind::kDepthwiseAlone ? weights(3 * channels) : optional_operand(window, 3 * channels);

    const auto out_side = [&](int side) { return output_side(t.kind, t.stride, side); };
    if (out.height != out_side(in.height) || out.width != out_side(in.width)) fail("a term's input has another size");
    if ((pooled || filter_pooled) && (t.stride != 2 || in.height % 2 != 0 || in.width % 2 != 0)) {
      fail("a pooled term needs stride 2 and an even size");
    }
    if (t.shift != 0 && (t.kind != TermKind::kPointwise || t.stride != 2 || in.height % 2 != 0 || in.width % 2 != 0)) {
      fail("a shifted term needs stride 2 and an even size");
    }
    if (window && t.kernel != 3 && t.kernel != 5 && t.kernel != 7) fail("depthwise kernels are 3, 5 or 7");
    if (!product && (in.blocks != out.blocks || t.out_blocks != out.blocks))
      fail("a term without a product changes the channels");
    if ((t.kind == TermKind::kIdentity || upsampled) && t.stride != 1) fail("an identity cannot have a stride");
    p_.terms.push_back(t);

    Term sized{};
    sized.kind = t.kind;
    sized.kernel = t.kernel;
    sized.stride = t.stride;
    sized.width = in.width;
    sized.blocks = in.blocks;
    return sized;
  }

  std::span<const std::int32_t> words_;
  std::size_t at_ = 0;
  std::size_t weights_floats_;
  std::int64_t results_ = 0;
  bool rolling_ =
      false;  // whether a step of the group at hand reads more of what the group wrote than the rows at hand
  Program& p_;
};

}  // namespace

namespace {

// Row y of a term's output is computed from the rows y * stride - before to y * stride + after of its input.
struct Reach {
  int stride, before, after;
};

// Of every term but an enlarged one.
Reach reach_of(const ProgramTerm& term) {
  const int pad = term.kernel / 2;
  switch (term.kind) {
    case TermKind::kPointwise:
      return {term.stride, -term.shift, term.shift};
    case TermKind::kDepthwise:
    case TermKind::kDepthwiseAlone:
      return {term.stride, pad, pad};
    case TermKind::kMaxPool:
    case TermKind::kAvgPool:
      return {term.stride, 1, 1};
    case TermKind::kPooledPointwise:
      return {2, 0, 1};
    case TermKind::kDepthwisePooled:
      return {2, pad, pad + 1};
    default:
      return {1, 0, 0};
  }
}

}  // namespace

// Kernels of half precision read rows by pairs, one of them with weights of zero where a window ends inside a pair.
int rows_needed(const ProgramTerm& term, int input_height, int rows) {
  const Reach reach = reach_of(term);
  const int needed = term.kind == TermKind::kUpsampled ? (rows + 1) / 2 : (rows - 1) * reach.stride + reach.after + 1;
  return std::clamp(needed + needed % 2, 0, input_height);
}

int rows_passed(const ProgramTerm& term, int rows) {
  const Reach reach = reach_of(term);
  const int passed = term.kind == TermKind::kUpsampled ? rows / 2 : rows * reach.stride - reach.before;
  return std::max(passed - (passed & 1), 0);
}

ProgramInfo program_info(std::span<const std::int32_t> words) {
  Program program;
  Decoder(words, 0, program).read_sizes();
  return {program.height, program.width, program.results};
}

void decode(std::span<const std::int32_t> words, std::size_t weights_floats, Program& program) {
  Decoder(words, weights_floats, program).run();
}

}  // namespace pnf
