// The margin softmax against its equations in float64: the kernels of every available instruction set on ranges of
// classes, and plan/margin_cross_entropy.h on several threads.
#include "plan/margin_cross_entropy.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include "check.h"
#include "kernels/dispatch.h"
#include "support.h"

namespace pnf::test {
namespace {

constexpr double kRounding = 0x1p-24;
constexpr double kTiny = 1e-25;  // above what exp(-87) stands for, below every gradient here

float rounded_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// Values of the kernel's type in float's memory, so that one guard serves both types.
struct Elements {
  bool bf16;
  std::size_t floats(std::size_t count) const { return bf16 ? (count + 1) / 2 : count; }
  std::uint16_t half(const float* memory, std::size_t i) const {
    std::uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<const char*>(memory) + i * sizeof bits, sizeof bits);
    return bits;
  }
  float at(const float* memory, std::size_t i) const {
    return bf16 ? std::bit_cast<float>(std::uint32_t{half(memory, i)} << 16) : memory[i];
  }
  bool untouched(const Guarded& memory, const Guarded& fresh, std::size_t i) const {
    return bf16 ? half(memory.get(), i) == half(fresh.get(), i) : memory.untouched(i);
  }
};

struct Problem {
  int samples, dims, classes;
  bool bf16;
  float scale;
  std::vector<float> embedding;     // [samples][dims]
  std::vector<float> kernel;        // [dims][classes], values that its type holds
  std::vector<std::int64_t> label;  // [samples]
  std::vector<double> grad_others, grad_cosine;
  bool pairs = false;  // whether the kernels multiply pairs of bfloat16

  std::string describe() const {
    return std::to_string(samples) + "x" + std::to_string(dims) + "x" + std::to_string(classes) +
           (bf16 ? " bf16" : " float32") + (pairs ? " in pairs" : "");
  }
  // The kernel as the contract lays it out.
  std::vector<float> stored_kernel() const {
    if (!bf16) return kernel;
    std::vector<std::uint16_t> halves;
    for (const float value : kernel) halves.push_back(std::bit_cast<std::uint32_t>(value) >> 16);
    halves.resize((halves.size() + 1) / 2 * 2);
    std::vector<float> stored(halves.size() / 2);
    std::memcpy(stored.data(), halves.data(), halves.size() * sizeof halves[0]);
    return stored;
  }
};

Problem draw(int samples, int dims, int classes, bool bf16, Random& random) {
  Problem p = {samples, dims, classes, bf16, random.chance(2) ? 30.0f : 8.0f, {}, {}, {}, {}, {}, false};
  const float length = random.chance(2) ? 1.0f : 1e-3f;
  p.embedding = random.reals(static_cast<std::size_t>(samples) * dims, -5.0f, 5.0f);
  p.kernel = random.reals(static_cast<std::size_t>(dims) * classes, -length, length);
  if (bf16) std::transform(p.kernel.begin(), p.kernel.end(), p.kernel.begin(), rounded_to_bf16);
  for (int n = 0; n < samples; ++n) {
    p.label.push_back(random.chance(5) ? -1 : random.integer(0, classes - 1));
    p.grad_others.push_back(random.real(0.1f, 1.0f));
    p.grad_cosine.push_back(random.real(-9.0f, 9.0f));
  }
  return p;
}

struct Expected {
  std::vector<double> others, cosine;              // [samples]
  std::vector<Exact> grad_embedding, grad_kernel;  // as the inputs
};

std::vector<double> unit_rows(const Problem& p, std::vector<double>& inverse) {
  std::vector<double> unit(p.embedding.begin(), p.embedding.end());
  for (int n = 0; n < p.samples; ++n) {
    double square = 0.0;
    for (int d = 0; d < p.dims; ++d) square += unit[n * p.dims + d] * unit[n * p.dims + d];
    inverse.push_back(std::sqrt(square) > kMarginEpsilon ? 1.0 / std::sqrt(square) : 0.0);
    for (int d = 0; d < p.dims; ++d) unit[n * p.dims + d] *= inverse[n];
  }
  return unit;
}

// [classes][dims]
std::vector<double> unit_columns(const Problem& p, std::vector<double>& inverse) {
  std::vector<double> unit(p.kernel.size());
  for (int j = 0; j < p.classes; ++j) {
    double square = 0.0;
    for (int d = 0; d < p.dims; ++d) {
      const double w = p.kernel[static_cast<std::size_t>(d) * p.classes + j];
      unit[static_cast<std::size_t>(j) * p.dims + d] = w;
      square += w * w;
    }
    inverse.push_back(std::sqrt(square) > kMarginEpsilon ? 1.0 / std::sqrt(square) : 0.0);
    for (int d = 0; d < p.dims; ++d) unit[static_cast<std::size_t>(j) * p.dims + d] *= inverse[j];
  }
  return unit;
}

// The equations of margin_cross_entropy.h. Each gradient is a sum over pairs (n, j) of G (other side - c * own side)
// over the own length, where G is the derivative in c[n][j].
Expected evaluate(const Problem& p) {
  Expected result;
  std::vector<double> row_inverse, column_inverse;
  const std::vector<double> rows = unit_rows(p, row_inverse), columns = unit_columns(p, column_inverse);
  result.grad_embedding.resize(p.embedding.size());
  result.grad_kernel.resize(p.kernel.size());
  std::vector<double> cosines(p.classes);
  for (int n = 0; n < p.samples; ++n) {
    const double* e = rows.data() + static_cast<std::size_t>(n) * p.dims;
    double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (int j = 0; j < p.classes; ++j) {
      double c = 0.0;
      for (int d = 0; d < p.dims; ++d) c += e[d] * columns[static_cast<std::size_t>(j) * p.dims + d];
      cosines[j] = c;
      if (j != p.label[n]) largest = std::max(largest, p.scale * c);
    }
    for (int j = 0; j < p.classes; ++j) {
      if (j != p.label[n]) sum += std::exp(p.scale * cosines[j] - largest);
    }
    const double others = sum > 0.0 ? largest + std::log(sum) : -std::numeric_limits<double>::infinity();
    result.others.push_back(others);
    result.cosine.push_back(p.label[n] < 0 ? 0.0 : std::clamp(cosines[p.label[n]], -1.0, 1.0));
    for (int j = 0; j < p.classes; ++j) {
      const double g =
          j == p.label[n] ? p.grad_cosine[n] : p.grad_others[n] * p.scale * std::exp(p.scale * cosines[j] - others);
      for (int d = 0; d < p.dims; ++d) {
        const double w = columns[static_cast<std::size_t>(j) * p.dims + d];
        const double size = std::abs(g) * (std::abs(w) + std::abs(e[d]));
        result.grad_embedding[n * p.dims + d].add(g * (w - cosines[j] * e[d]) * row_inverse[n], size * row_inverse[n]);
        result.grad_kernel[static_cast<std::size_t>(d) * p.classes + j].add(
            g * (e[d] - cosines[j] * w) * column_inverse[j], size * column_inverse[j]);
      }
    }
  }
  return result;
}

// Roundings of a logit, by which its exponential and so each product with it is off: those of c times the scale, and
// of the shift and the exponential. One of bfloat16 is worth 2^15: in pairs, two for each of c's products, and two of a
// gradient's, whose magnitude has them.
int logit_roundings(const Problem& p) {
  const int floats = static_cast<int>(p.scale * (p.dims + 8)) + 12;
  return p.pairs ? floats + static_cast<int>((p.scale + 1.0f) * 0x1.01p16f) : floats;
}

bool close(float actual, const Exact& expected, int roundings, bool bf16) {
  const double n = roundings * kRounding, error = n / (1.0 - n) * expected.magnitude + kTiny;
  return std::abs(actual - expected.value) <= error + (bf16 ? 0x1p-8 * (std::abs(expected.value) + error) : 0.0);
}

void check_others(const Problem& p, const Expected& expected, int n, double others, const std::string& name) {
  const double bound = (logit_roundings(p) + p.classes + 8) * kRounding;
  const double true_others = expected.others[n];
  const bool right = std::isinf(true_others) ? others == true_others : std::abs(others - true_others) <= bound;
  CHECK(right, "%s: others[%d] is %.12g, not %.12g", name.c_str(), n, others, true_others);
}

void check_cosine(const Expected& expected, int n, double cosine, const std::string& name) {
  CHECK(std::abs(cosine - expected.cosine[n]) <= 1e-13, "%s: cosine[%d] is %.17g, not %.17g", name.c_str(), n, cosine,
        expected.cosine[n]);
}

void check_grad_kernel(const Problem& p, const Expected& expected, const Guarded& found, const std::string& name) {
  const int roundings = logit_roundings(p) + p.samples + p.dims + 16;
  const Elements elements = {p.bf16};
  for (std::size_t i = 0; i < p.kernel.size(); ++i) {
    const float actual = elements.at(found.get(), i);
    CHECK(close(actual, expected.grad_kernel[i], roundings, p.bf16), "%s: grad_kernel[%zu] is %.9g, not %.9g of %g",
          name.c_str(), i, actual, expected.grad_kernel[i].value, expected.grad_kernel[i].magnitude);
  }
}

struct NamedKernels {
  std::string name;
  const MarginKernels* kernels;
};

std::vector<NamedKernels> tested_kernels() {
  std::vector<NamedKernels> found;
  for (const KernelSet& set : compiled_kernels()) {
    if (is_tested(set)) found.push_back({set.name, &set});
  }
  for (const Bf16KernelSet& set : compiled_bf16_kernels()) {
    if (is_tested(set) && set.margin_pairs) found.push_back({set.name, &set});
  }
  return found;
}

// The kernels of each instruction set on two ranges of classes that meet at a block's border.
void ranges(Problem p, const Expected& expected, Random& random) {
  const bool misaligned = random.chance(2);
  const Constants embedding(p.embedding, misaligned), kernel(p.stored_kernel(), misaligned && !p.bf16);
  std::vector<double> row_inverse, column_inverse;
  const std::vector<double> unit = unit_rows(p, row_inverse), columns = unit_columns(p, column_inverse);
  const std::ptrdiff_t stride = p.dims + random.integer(0, 5);
  std::vector<float> rows(p.samples * stride, kNan);
  for (int n = 0; n < p.samples; ++n) {
    for (int d = 0; d < p.dims; ++d) rows[n * stride + d] = static_cast<float>(unit[n * p.dims + d]);
  }
  const Constants unit_rows(rows, misaligned);
  std::vector<int> labelled;
  for (int n = 0; n < p.samples; ++n) {
    if (p.label[n] >= 0) labelled.push_back(n);
  }
  std::stable_sort(labelled.begin(), labelled.end(), [&](int a, int b) { return p.label[a] < p.label[b]; });
  const MarginHead head = {p.samples,
                           p.dims,
                           p.classes,
                           embedding.get(),
                           unit_rows.get(),
                           stride,
                           row_inverse.data(),
                           kernel.get(),
                           p.bf16,
                           p.scale,
                           static_cast<int>(labelled.size()),
                           labelled.data(),
                           p.label.data()};
  const int size = margin_block(p.dims), blocks = (p.classes + size - 1) / size;
  const std::ptrdiff_t border = std::min(random.integer(0, blocks) * size, p.classes);
  const Elements elements = {p.bf16};
  Guarded row_max(p.samples, misaligned), grad_kernel(elements.floats(p.kernel.size()), misaligned && !p.bf16);
  const Guarded fresh(grad_kernel.size(), false);
  const int padded = margin_padded_dims(p.dims);
  Guarded row_sums(static_cast<std::size_t>(p.samples) * padded, misaligned);
  Guarded label_rows(p.embedding.size(), misaligned);

  for (const auto& [isa, kernels] : tested_kernels()) {
    p.pairs = kernels->margin_pairs;
    Guarded scratch(margin_scratch(p.samples, p.dims, p.pairs), misaligned);
    const std::string name = isa + " " + p.describe();
    std::vector<double> total(p.samples), row_sum(p.samples), cosine(p.samples, 7.0);
    std::vector<float> shift(p.samples), weight(p.samples);
    for (int n = 0; n < p.samples; ++n) {
      if (std::isinf(expected.others[n])) continue;
      shift[n] = static_cast<float>(expected.others[n]);
      weight[n] = static_cast<float>(p.grad_others[n] * p.scale * std::exp(shift[n] - expected.others[n]));
    }
    grad_kernel.poison();
    label_rows.poison();
    std::vector<double> found(p.embedding.size());
    for (const auto& [begin, end] : {std::pair<std::ptrdiff_t, std::ptrdiff_t>{0, border}, {border, p.classes}}) {
      if (begin == end) continue;
      row_max.poison();
      scratch.poison();
      std::fill(row_sum.begin(), row_sum.end(), std::nan(""));
      long bad =
          kernels->margin_forward(head, {row_max.get(), row_sum.data(), cosine.data()}, begin, end, scratch.get());
      CHECK(bad == -1 && scratch.guards_intact() && row_max.guards_intact(), "%s writes outside its memory or fails",
            name.c_str());
      for (int n = 0; n < p.samples; ++n) total[n] += row_sum[n] * std::exp(static_cast<double>(row_max.get()[n]));

      row_sums.poison();
      scratch.poison();
      bad = kernels->margin_backward(
          head,
          {shift.data(), weight.data(), p.grad_cosine.data(), grad_kernel.get(), row_sums.get(), label_rows.get()},
          begin, end, scratch.get());
      CHECK(bad == -1 && scratch.guards_intact() && grad_kernel.guards_intact() && row_sums.guards_intact() &&
                label_rows.guards_intact(),
            "%s writes outside its memory or fails", name.c_str());
      for (int n = 0; n < p.samples; ++n) {
        for (int d = 0; d < p.dims; ++d) found[n * p.dims + d] += row_sums.get()[n * padded + d];
      }
      for (std::size_t i = 0; begin == 0 && i < p.kernel.size(); ++i) {
        const bool outside = static_cast<std::ptrdiff_t>(i % p.classes) >= end;
        CHECK(!outside || elements.untouched(grad_kernel, fresh, i), "%s writes besides its classes", name.c_str());
      }
    }
    for (int n = 0; n < p.samples; ++n) {
      if (std::isinf(expected.others[n])) {
        // exp(-87) stands for zero in each of the panel's classes.
        CHECK(total[n] < std::exp(-80.0 - 2.0 * p.scale), "%s: others[%d] is not empty", name.c_str(), n);
      } else {
        check_others(p, expected, n, std::log(total[n]), name);
      }
      if (p.label[n] >= 0) {
        check_cosine(expected, n, cosine[n], name);
      } else {
        CHECK(cosine[n] == 7.0, "%s writes the cosine of no label", name.c_str());
      }
      double along = 0.0;
      for (int d = 0; d < p.dims; ++d) along += found[n * p.dims + d] * unit[n * p.dims + d];
      for (int d = 0; d < p.dims; ++d) {
        const std::size_t i = static_cast<std::size_t>(n) * p.dims + d;
        if (p.label[n] < 0) CHECK(label_rows.untouched(i), "%s writes the row of no label", name.c_str());
        const double label_term = p.label[n] >= 0 ? label_rows.get()[i] : 0.0;
        const double actual = (found[i] - along * unit[i] + label_term) * row_inverse[n];
        CHECK(close(static_cast<float>(actual), expected.grad_embedding[i],
                    logit_roundings(p) + p.classes + p.dims + 16, false),
              "%s: grad_embedding[%zu] is %.9g, not %.9g", name.c_str(), i, actual, expected.grad_embedding[i].value);
      }
    }
    check_grad_kernel(p, expected, grad_kernel, name);
  }
}

MarginInput input_of(const Problem& p, const float* embedding, const float* kernel) {
  return {p.samples, p.dims, p.classes, embedding, kernel, p.bf16, p.label.data(), p.scale, p.pairs};
}

struct Results {
  std::vector<double> others, cosine;
  Guarded grad_embedding, grad_kernel;

  explicit Results(const Problem& p)
      : others(p.samples, std::nan("")),
        cosine(p.samples, std::nan("")),
        grad_embedding(p.embedding.size(), false),
        grad_kernel(Elements{p.bf16}.floats(p.kernel.size()), false) {}
  void compute(const Problem& p, const MarginInput& input, int threads) {
    margin_forward(input, threads, others.data(), cosine.data());
    margin_backward(input, threads, others.data(), p.grad_others.data(), p.grad_cosine.data(), grad_embedding.get(),
                    grad_kernel.get());
  }
  bool same(const Results& other) const {
    return others == other.others && cosine == other.cosine &&
           same_bits(grad_embedding.get(), other.grad_embedding.get(), grad_embedding.size()) &&
           same_bits(grad_kernel.get(), other.grad_kernel.get(), grad_kernel.size());
  }
};

// The whole on several threads, and twice at the same time.
void threads(const Problem& p, const Expected& expected, int count) {
  const std::string name = p.describe() + " on " + std::to_string(count) + " threads";
  const Constants embedding(p.embedding, false), kernel(p.stored_kernel(), false);
  const MarginInput input = input_of(p, embedding.get(), kernel.get());
  Results found(p), again(p), beside(p);
  found.compute(p, input, count);
  CHECK(found.grad_embedding.guards_intact() && found.grad_kernel.guards_intact(), "%s writes outside its memory",
        name.c_str());
  for (int n = 0; n < p.samples; ++n) {
    check_others(p, expected, n, found.others[n], name);
    check_cosine(expected, n, found.cosine[n], name);
  }
  for (std::size_t i = 0; i < p.embedding.size(); ++i) {
    const float actual = found.grad_embedding.get()[i];
    CHECK(close(actual, expected.grad_embedding[i], logit_roundings(p) + p.classes + p.dims + 16, false),
          "%s: grad_embedding[%zu] is %.9g, not %.9g", name.c_str(), i, actual, expected.grad_embedding[i].value);
  }
  check_grad_kernel(p, expected, found.grad_kernel, name);

  std::thread other([&] { beside.compute(p, input, count); });
  again.compute(p, input, count);
  other.join();
  CHECK(found.same(again) && found.same(beside), "%s: equal calls give different bits", name.c_str());
}

// Labels on both sides of every block's border, several of one class, and zero vectors.
void mark(Problem& p, Random& random) {
  std::vector<int> borders = {0, p.classes - 1};
  for (int border = 16; border < p.classes; border += 16) borders.insert(borders.end(), {border - 1, border});
  for (std::size_t n = 0; n < p.label.size(); n += 2) p.label[n] = borders[n / 2 % borders.size()];
  if (p.samples > 3) std::fill_n(p.embedding.begin() + p.dims, p.dims, 0.0f);
  if (p.classes > 3) {
    const int zero = random.integer(0, p.classes - 1);
    for (int d = 0; d < p.dims; ++d) p.kernel[static_cast<std::size_t>(d) * p.classes + zero] = 0.0f;
  }
}

void every_size() {
  Random random(1);
  for (const int dims : {1, 3, 16, 17, 31, 33, 100, 128, 130}) {
    for (const int classes : {1, 2, 15, 16, 17, 31, 32, 33, 123, 252, 256, 257, 385, 507}) {
      if (!random.chance(kOneCaseIn)) continue;
      Problem p = draw(random.integer(1, 9), dims, classes, random.chance(3), random);
      mark(p, random);
      ranges(p, evaluate(p), random);
    }
  }
  for (const int samples : {1, 2, 14, 15, 29, 255, 256, 257, 300}) {
    Problem p = draw(samples, 5, random.integer(30, 70), random.chance(2), random);
    mark(p, random);
    ranges(p, evaluate(p), random);
  }
}

void every_number_of_threads() {
  Random random(2);
  for (const auto& [isa, kernels] : tested_kernels()) {
    force_isa(isa);
    for (const int count : {1, 2, 3, 5}) {
      Problem p = draw(13, 20, count == 5 ? 300 : 1100, count % 2 == 0, random);
      p.pairs = kernels->margin_pairs;
      mark(p, random);
      threads(p, evaluate(p), count);
    }
  }
  force_isa("");
}

void empty_batch() {
  for (const bool bf16 : {false, true}) {
    Random random(3);
    const Problem p = draw(0, 3, 7, bf16, random);
    const Constants kernel(p.stored_kernel(), false);
    Results results(p);
    results.compute(p, input_of(p, nullptr, kernel.get()), 2);
    CHECK(results.grad_kernel.guards_intact(), "an empty batch writes outside its memory");
    for (std::size_t i = 0; i < p.kernel.size(); ++i) {
      CHECK((Elements{bf16}.at(results.grad_kernel.get(), i)) == 0.0f, "an empty batch has a gradient");
    }
  }
}

std::string error_of(const Problem& p, int count) {
  const Constants embedding(p.embedding, false), kernel(p.stored_kernel(), false);
  Results results(p);
  try {
    results.compute(p, input_of(p, embedding.get(), kernel.get()), count);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void errors() {
  Random random(4);
  const Problem good = draw(6, 20, 700, false, random);
  for (const int count : {1, 3}) {
    for (const std::int64_t label : {std::int64_t{700}, std::int64_t{-2}, std::numeric_limits<std::int64_t>::max()}) {
      Problem p = good;
      p.label[4] = label;
      CHECK(error_of(p, count) == "labels must lie in 0..699; sample 4 has " + std::to_string(label), "a bad label");
    }
    for (const float value : {kNan, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
      Problem p = good;
      p.embedding[3 * 20 + 19] = value;
      CHECK(error_of(p, count) == "embedding must be finite; row 3 is not", "a bad embedding");
      for (const int column : {0, 255, 256, 699}) {
        p = good;
        p.kernel[19 * 700 + column] = value;
        CHECK(error_of(p, count) == "kernel must be finite; column " + std::to_string(column) + " is not",
              "a bad column %d", column);
      }
    }
    CHECK(error_of(good, count).empty(), "a good call after bad ones");
  }
}

// Within 2^-22 of exp from -87 to 88; below, at most exp(-87); NaN stays NaN.
void exponentials() {
  std::vector<float> x = {0.0f, -0.0f, -87.0f, -88.0f, -1e30f, -std::numeric_limits<float>::infinity(), kNan};
  Random random(5);
  while (x.size() < 40000) x.push_back(random.chance(2) ? random.real(-87.0f, 88.0f) : random.real(-1.0f, 1.0f));
  const Constants in(x, true);
  Guarded out(x.size(), true);
  for (const KernelSet& set : compiled_kernels()) {
    if (!is_tested(set)) continue;
    out.poison();
    set.margin_exp(in.get(), static_cast<int>(x.size()), out.get());
    CHECK(out.guards_intact(), "%s margin_exp writes outside its memory", set.name);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(std::max(static_cast<double>(x[i]), -87.0)), actual = out.get()[i];
      CHECK(std::isnan(x[i]) ? std::isnan(actual) : std::abs(actual - exact) <= 0x1p-22 * exact,
            "%s exp(%.9g) is %.9g, not %.9g", set.name, x[i], actual, exact);
    }
    CHECK(out.get()[0] == 1.0f && out.get()[1] == 1.0f, "%s exp(0) is not 1", set.name);
  }
}

}  // namespace
}  // namespace pnf::test

int main() {
  using namespace pnf::test;
  return check::run(exponentials, every_size, every_number_of_threads, empty_batch, errors);
}
