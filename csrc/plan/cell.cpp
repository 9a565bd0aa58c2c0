#include "plan/cell.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "kernels/dispatch.h"
#include "plan/lease.h"
#include "plan/thread_pool.h"
#include "plan/workspace.h"

namespace pnf {
namespace {

int blocks_of(int channels) { return (channels + kBlock - 1) / kBlock; }

// Sums of a run of images, or moments of one image.
class Doubles {
 public:
  double* zeros(std::size_t count) {
    values_.assign(count, 0.0);
    return values_.data();
  }
  double* data() { return values_.data(); }
  std::size_t bytes() const { return values_.capacity() * sizeof(double); }

 private:
  std::vector<double> values_;
};

// Memory that lies like states, for the length of a call: from the heap, as torch's tensors are, so that either can have what
// the other has freed.
class StateBuffer {
 public:
  // What it holds is lost where it grows; 0 bytes give the memory that is there.
  void* reserve(std::size_t bytes) {
    if (bytes > bytes_) {
      release();
      data_.reset(std::malloc(bytes));
      if (data_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
      advise_huge_pages(data_.get(), bytes);
    }
    return data_.get();
  }
  void release() {
    data_.reset();
    bytes_ = 0;
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

template <typename State>
State* reserve(StateBuffer& memory, std::size_t count) {
  return static_cast<State*>(memory.reserve(count * sizeof(State)));
}

template <typename State>
struct ThreadMemory {
  Floats scratch;
  Floats filtered;  // of one image
  std::vector<const State*> inputs;
  std::vector<State*> grad_inputs;
  std::vector<const State*> before;
  std::vector<NormalizedTermOf<State>> terms;
  std::vector<const State*> residuals;
};

struct OperationMemory {
  Floats packed;
  StateBuffer products;  // [images][out_blocks][pixels][16]
  Floats normalization;  // Normalization's vectors
  Doubles moments;       // [images][2][out_blocks][16]
};

template <typename State>
struct TrainingMemory {
  std::vector<OperationMemory> operations;  // of one sum
  std::vector<ThreadMemory<State>> threads;
  std::vector<std::vector<Doubles>> sums;  // of the runs of images, of every operation of one sum
  std::vector<StateBuffer> grad_sums;

  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const OperationMemory& m : operations) {
      bytes += m.packed.bytes() + m.normalization.bytes() + m.moments.bytes();
    }
    for (const ThreadMemory<State>& m : threads) bytes += m.scratch.bytes() + m.filtered.bytes();
    for (const std::vector<Doubles>& run : sums) {
      for (const Doubles& m : run) bytes += m.bytes();
    }
    return bytes;
  }
  // The cells of a network take turns, each with a need of its own.
  bool outgrown() const { return false; }
  void release_states() {
    for (OperationMemory& m : operations) m.products.release();
    for (StateBuffer& m : grad_sums) m.release();
  }
};

std::uint32_t rounded(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return (std::isnan(x) ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// Puts a weight into one half of a word, which is zero or holds the other half.
void set_half(float& word, bool upper, float weight) {
  word = std::bit_cast<float>(std::bit_cast<std::uint32_t>(word) | rounded(weight) << (upper ? 16 : 0));
}

// A call's memory. What lies like states goes back to the heap with the call.
template <typename State>
class CallMemory {
 public:
  CallMemory() = default;
  CallMemory(const CallMemory&) = delete;
  CallMemory& operator=(const CallMemory&) = delete;
  ~CallMemory() { lease_->release_states(); }
  TrainingMemory<State>& operator*() const { return *lease_; }
  TrainingMemory<State>* operator->() const { return &*lease_; }

 private:
  Lease<TrainingMemory<State>> lease_;
};

// An operation with its weights in the kernels' layout.
template <typename State>
class Packed {
 public:
  Packed(const Cell& cell, const CellOperation& operation, const CellKernels<State>& set, Floats& memory)
      : set_(set), operation_(operation), state_(cell.states[operation.first_state]) {
    term_.kind = operation.kind;
    term_.height = state_.height;
    term_.width = state_.width;
    term_.out_height = (state_.height + operation.stride - 1) / operation.stride;
    term_.out_width = (state_.width + operation.stride - 1) / operation.stride;
    term_.kernel = operation.kernel;
    term_.stride = operation.stride;
    term_.offset = operation.offset;
    term_.parts = operation.parts;
    term_.part_channels = state_.channels;
    term_.part_blocks = blocks_of(state_.channels);
    term_.blocks = operation.parts * term_.part_blocks;
    term_.out_channels = operation.out_channels;
    term_.out_blocks = blocks_of(operation.out_channels);
    if (operation.kind == CellKind::kSeparable) pack_weights(memory);
  }

  const CellTerm& term() const { return term_; }
  const CellOperation& operation() const { return operation_; }
  int channels_in() const { return operation_.parts * state_.channels; }
  int taps() const { return operation_.kernel * operation_.kernel; }
  // Per pixel of the output.
  std::ptrdiff_t multiplications() const {
    return static_cast<std::ptrdiff_t>(channels_in()) * (operation_.out_channels + taps());
  }
  std::ptrdiff_t pixels() const { return static_cast<std::ptrdiff_t>(term_.out_height) * term_.out_width; }
  std::size_t lanes_out() const { return std::size_t{kBlock} * term_.out_blocks; }
  // Among those of a cell's `mean` and `variance`.
  std::ptrdiff_t moments() const { return operation_.normalized ? operation_.out_channels : 0; }
  std::size_t products() const { return term_.kind == CellKind::kNormalize ? 0 : lanes_out() * pixels(); }
  std::size_t filtered() const { return filters_plane(term_) ? std::size_t{kBlock} * term_.blocks * pixels() : 0; }

  // Where input channel c lies among the lanes of the blocks.
  int lane_of(int c) const { return c / state_.channels * term_.part_blocks * kBlock + c % state_.channels; }
  float weight_at(int o, int c) const {
    return operation_.pointwise[static_cast<std::ptrdiff_t>(o) * channels_in() + c];
  }

  // The parts of one image among those of all states.
  template <typename T>
  void parts_of(const std::vector<T*>& states, std::ptrdiff_t image, std::vector<T*>& parts) const {
    const std::ptrdiff_t elements = static_cast<std::ptrdiff_t>(state_.height) * state_.width * state_.channels;
    for (int p = 0; p < operation_.parts; ++p) {
      T* const state = states[operation_.first_state + p];
      parts[p] = state == nullptr ? nullptr : state + image * elements;
    }
  }

  // The products of one image, whose parts are mine.inputs.
  void multiply(ThreadMemory<State>& mine, int next, State* products) const {
    if (term_.kind == CellKind::kNormalize) return;
    set_.cell_products(term_, mine.inputs.data(), next, mine.filtered.reserve(0), products, mine.scratch.reserve(0));
  }
  // Where they are then: kNormalize takes its input as it is.
  ImageViewOf<State> products_of(const State* input, const State* products) const {
    if (term_.kind == CellKind::kNormalize) return {input, state_.channels, kBlock, false};
    return {products, kBlock, static_cast<std::ptrdiff_t>(kBlock) * pixels(), true};
  }

 private:
  // Words of the taps of a channel's block, and of a block of a product's weights.
  std::size_t tap_words() const {
    if (operation_.kernel == 1) return 0;
    return static_cast<std::size_t>(set_.pairs ? (operation_.kernel + 1) / 2 * operation_.kernel : taps()) * kBlock;
  }
  std::size_t product_words() const { return kBlock * kBlock / (set_.pairs ? 2 : 1); }

  void pack_weights(Floats& memory) {
    const std::size_t in = std::size_t{kBlock} * term_.blocks, filters = tap_words() * term_.blocks;
    const std::size_t products = product_words() * term_.blocks * term_.out_blocks;
    const std::size_t count = in + 2 * filters + 2 * products;
    float* slope = memory.reserve(count);
    float* depthwise = slope + in;
    float* reversed = depthwise + filters;
    float* pointwise = reversed + filters;
    float* transposed = pointwise + products;
    std::fill(slope, slope + count, 0.0f);
    for (int c = 0; c < channels_in(); ++c) {
      const int lane = lane_of(c), block = lane / kBlock, within = lane % kBlock;
      slope[lane] = operation_.slope[c];
      const float* filter = operation_.depthwise + static_cast<std::ptrdiff_t>(c) * taps();
      for (int tap = 0; tap < taps() && operation_.kernel > 1; ++tap) {
        set_tap(depthwise + block * tap_words() + within, tap, filter[tap]);
        set_tap(reversed + block * tap_words() + within, taps() - 1 - tap, filter[tap]);
      }
      for (int o = 0; o < operation_.out_channels; ++o) {
        const float weight = weight_at(o, c) * (operation_.kernel == 1 ? filter[0] : 1.0f);
        const std::ptrdiff_t forth = static_cast<std::ptrdiff_t>(o / kBlock) * term_.blocks + block;
        const std::ptrdiff_t back = static_cast<std::ptrdiff_t>(block) * term_.out_blocks + o / kBlock;
        set_product(pointwise + forth * product_words(), within, o % kBlock, weight);
        set_product(transposed + back * product_words(), o % kBlock, within, weight);
      }
    }
    term_.slope = slope;
    term_.depthwise = depthwise;
    term_.reversed = reversed;
    term_.pointwise = pointwise;
    term_.transposed = transposed;
  }

  void set_tap(float* weights, int tap, float weight) const {
    const int kernel = operation_.kernel, ky = tap / kernel, kx = tap % kernel;
    if (set_.pairs) {
      set_half(weights[(ky / 2 * kernel + kx) * kBlock], ky % 2 != 0 || ky + 1 == kernel, weight);
    } else {
      weights[tap * kBlock] = weight;
    }
  }

  void set_product(float* weights, int from, int to, float weight) const {
    if (set_.pairs) {
      set_half(weights[from / 2 * kBlock + to], from % 2 != 0, weight);
    } else {
      weights[from * kBlock + to] = weight;
    }
  }

  const CellKernels<State>& set_;
  const CellOperation& operation_;
  const CellState& state_;
  CellTerm term_ = {};
};

// Vectors of [out_blocks][16] that belong to an operation, surplus channels zero.
struct Normalization {
  float *scale, *shift;                                 // of the operation's result
  float *centre, *by_gradient, *by_product, *constant;  // of its products' gradient

  template <typename State>
  Normalization(const Packed<State>& packed, Floats& memory) {
    const std::size_t lanes = packed.lanes_out();
    scale = memory.reserve(6 * lanes);
    shift = scale + lanes;
    centre = shift + lanes;
    by_gradient = centre + lanes;
    by_product = by_gradient + lanes;
    constant = by_product + lanes;
  }

  template <typename State>
  void set_result(const Packed<State>& packed, const double* mean, const double* variance) const {
    std::fill(scale, centre, 0.0f);
    if (!packed.operation().normalized) {
      std::copy(packed.operation().gamma, packed.operation().gamma + packed.term().out_channels, scale);
      return;
    }
    for (int c = 0; c < packed.term().out_channels; ++c) {
      const double factor = packed.operation().gamma[c] / std::sqrt(variance[c] + packed.operation().epsilon);
      scale[c] = static_cast<float>(factor);
      shift[c] = static_cast<float>(packed.operation().beta[c] - factor * mean[c]);
    }
  }
};

// An operation's share of its sum for one image, once its products and Normalization are there.
template <typename State>
NormalizedTermOf<State> term_of(const Packed<State>& packed, const std::vector<const State*>& states, int image,
                                ThreadMemory<State>& mine, OperationMemory& memory, const State* products) {
  const Normalization vectors(packed, memory.normalization);
  packed.parts_of(states, image, mine.inputs);
  return {packed.products_of(mine.inputs[0], products), vectors.scale, vectors.shift, packed.operation().first_out,
          packed.term().out_channels};
}

// Whether the first operation's products lie as the sum will, so that they need no memory but the sum's: one block,
// every operation has all of it, and the first is not read where it lies anyway.
template <typename State>
bool fits_in_place(const std::vector<Packed<State>>& packed, const CellState& state) {
  bool fits = state.channels == kBlock && !packed.empty() && packed[0].term().kind != CellKind::kNormalize;
  for (const Packed<State>& p : packed) fits = fits && p.term().out_channels == kBlock;
  return fits;
}

// The second pass over the images goes backwards: it starts with those whose data are still in the cache.
enum class Order { kForwards, kBackwards };

struct Turn {
  int image;
  int next;  // the image of the next turn in this run, counted from this one; 0 in the last
  int thread;
  int run;
};

// Runs of images that threads take as they come: one for a thread alone, else a few for each, so that no thread waits
// long for another's last one.
int runs_of(int images, int threads) {
  constexpr int kRunsPerThread = 4, kLeastImages = 4;
  if (threads == 1) return 1;
  return std::min(images, std::max(threads, std::min(kRunsPerThread * threads, images / kLeastImages)));
}

// Calls body(turn) for every image. Both orders give a thread the same runs, but for those that others take.
template <typename Body>
void each_image(int images, int threads, Order order, Body& body) {
  struct Context {
    int images, runs;
    bool backwards;
    Body& body;
    Shares shares;
  };
  const int runs = runs_of(images, threads);
  Context context = {images, runs, order == Order::kBackwards, body, {runs, threads, order == Order::kBackwards}};
  run_together(
      threads,
      [](void* data, Member& member) noexcept {
        Context& c = *static_cast<Context*>(data);
        for (int run = c.shares.take(member.index); run >= 0; run = c.shares.take(member.index)) {
          const int begin = static_cast<int>(static_cast<std::ptrdiff_t>(c.images) * run / c.runs);
          const int end = static_cast<int>(static_cast<std::ptrdiff_t>(c.images) * (run + 1) / c.runs);
          for (int i = begin; i < end; ++i) {
            const int next = i + 1 == end ? 0 : c.backwards ? -1 : 1;
            c.body({c.backwards ? begin + end - 1 - i : i, next, member.index, run});
          }
        }
      },
      &context);
}

// The operations of sum `sum` start at `first` and end before the result.
std::size_t operations_end(const Cell& cell, int sum, std::size_t first) {
  while (first < cell.operations.size() && cell.operations[first].sum == sum) ++first;
  return first;
}

template <typename State>
std::vector<Packed<State>> pack(const Cell& cell, std::size_t first, std::size_t end, const CellKernels<State>& set,
                                TrainingMemory<State>& memory) {
  if (memory.operations.size() < end - first) memory.operations.resize(end - first);
  std::vector<Packed<State>> packed;
  packed.reserve(end - first);
  for (std::size_t i = first; i < end; ++i) {
    packed.emplace_back(cell, cell.operations[i], set, memory.operations[i - first].packed);
  }
  return packed;
}

template <typename State>
void prepare_threads(const std::vector<Packed<State>>& packed, std::size_t residuals, int images, int threads,
                     TrainingMemory<State>& memory) {
  const auto runs = static_cast<std::size_t>(runs_of(images, threads));
  if (memory.sums.size() < runs) memory.sums.resize(runs);
  for (std::vector<Doubles>& sums : memory.sums) {
    if (sums.size() < packed.size()) sums.resize(packed.size());
  }
  if (memory.threads.size() < static_cast<std::size_t>(threads)) memory.threads.resize(threads);
  std::size_t scratch = 0, parts = 0, filtered = 0;
  for (const Packed<State>& p : packed) {
    scratch = std::max(scratch, cell_scratch(p.term()));
    parts = std::max(parts, static_cast<std::size_t>(p.operation().parts));
    filtered = std::max(filtered, p.filtered());
  }
  for (int t = 0; t < threads; ++t) {
    ThreadMemory<State>& mine = memory.threads[t];
    mine.scratch.reserve(scratch);
    mine.filtered.reserve(filtered);
    mine.inputs.resize(parts);
    mine.grad_inputs.resize(parts);
    mine.before.resize(parts);
    mine.terms.resize(packed.size());
    mine.residuals.resize(residuals);
  }
}

// Means and squared distances of images of equal size, into those of the batch (Chan, Golub and LeVeque, 1979).
void combine_moments(const double* moments, int images, std::size_t lanes, double pixels, int channels, double* mean,
                     double* variance) {
  for (int c = 0; c < channels; ++c) {
    double middle = 0.0;
    for (int image = 0; image < images; ++image) middle += moments[2 * image * lanes + c];
    middle /= images;
    double square = 0.0;
    for (int image = 0; image < images; ++image) {
      const double distance = moments[2 * image * lanes + c] - middle;
      square += moments[(2 * image + 1) * lanes + c] + pixels * distance * distance;
    }
    mean[c] = middle;
    variance[c] = square / (images * pixels);
  }
}

std::ptrdiff_t elements_of(const CellState& state) {
  return static_cast<std::ptrdiff_t>(state.channels) * state.height * state.width;
}

std::vector<int> residuals_of(const Cell& cell, int sum) {
  std::vector<int> states;
  for (const CellResidual& residual : cell.residuals) {
    if (residual.sum == sum) states.push_back(residual.state);
  }
  return states;
}

// One past the operations that are taken through the batch together with the first: those of a discrete node, or of one
// edge of a searched one. Together they read their state once per image, and their products are all the memory it takes.
template <typename State>
std::size_t group_end(const std::vector<Packed<State>>& packed, std::size_t first) {
  constexpr std::size_t kLeast = 4;
  std::size_t end = first + 1;
  while (end < packed.size() &&
         (end - first < kLeast || packed[end].operation().first_state == packed[end - 1].operation().first_state)) {
    ++end;
  }
  return end;
}

// A sum in the forward pass.
template <typename State>
class SumForward {
 public:
  SumForward(const Cell& cell, int sum, const CellKernels<State>& set, const std::vector<Packed<State>>& packed,
             int threads, const std::vector<const State*>& states, State* out, TrainingMemory<State>& memory)
      : cell_(cell),
        set_(set),
        packed_(packed),
        residuals_(residuals_of(cell, sum)),
        threads_(threads),
        states_(states),
        state_(cell.states[cell.inputs + sum]),
        out_(out),
        memory_(memory) {}

  void run(double* mean, double* variance) {
    prepare_threads(packed_, residuals_.size(), cell_.images, threads_, memory_);
    if (packed_.empty()) normalize(0, 0);
    for (std::size_t first = 0, end = 0; first < packed_.size(); first = end) {
      end = group_end(packed_, first);
      outside_ = first == 0 && fits_in_place(packed_, state_) ? 1 : 0;
      multiply(first, end);
      for (std::size_t i = first; i < end; ++i) {
        const Packed<State>& p = packed_[i];
        OperationMemory& mine = memory_of(i, first);
        if (p.operation().normalized) {
          combine_moments(mine.moments.data(), cell_.images, p.lanes_out(), static_cast<double>(p.pixels()),
                          p.term().out_channels, mean, variance);
        }
        Normalization(p, mine.normalization).set_result(p, mean, variance);
        mean += p.moments();
        variance += p.moments();
      }
      normalize(first, end);
    }
  }

 private:
  // Groups after the first take the memory of the first again.
  OperationMemory& memory_of(std::size_t i, std::size_t first) { return memory_.operations[i - first]; }

  State* products_at(std::size_t i, std::size_t first, int image) {
    if (i < outside_) return out_ + image * elements_of(state_);
    return reserve<State>(memory_of(i, first).products, 0) + image * packed_[i].products();
  }

  void multiply(std::size_t first, std::size_t end) {
    for (std::size_t i = first; i < end; ++i) {
      if (i >= outside_) reserve<State>(memory_of(i, first).products, packed_[i].products() * cell_.images);
      memory_of(i, first).moments.zeros(2 * packed_[i].lanes_out() * cell_.images);
    }
    auto body = [&](const Turn& turn) {
      ThreadMemory<State>& mine = memory_.threads[turn.thread];
      for (std::size_t i = first; i < end; ++i) {
        const Packed<State>& p = packed_[i];
        State* products = products_at(i, first, turn.image);
        double* moments = memory_of(i, first).moments.data() + 2 * turn.image * p.lanes_out();
        p.parts_of(states_, turn.image, mine.inputs);
        p.multiply(mine, turn.next, products);
        if (!p.operation().normalized) continue;
        set_.channel_moments(p.products_of(mine.inputs[0], products), p.term().out_channels,
                             static_cast<int>(p.pixels()), moments, moments + p.lanes_out());
      }
    };
    each_image(cell_.images, threads_, Order::kForwards, body);
  }

  // The first group brings the residuals.
  void normalize(std::size_t first, std::size_t end) {
    const std::ptrdiff_t elements = elements_of(state_);
    const std::size_t residuals = first == 0 ? residuals_.size() : 0;
    auto body = [&](const Turn& turn) {
      ThreadMemory<State>& mine = memory_.threads[turn.thread];
      const int image = turn.image;
      for (std::size_t i = first; i < end; ++i) {
        mine.terms[i - first] =
            term_of(packed_[i], states_, image, mine, memory_of(i, first), products_at(i, first, image));
      }
      for (std::size_t r = 0; r < residuals; ++r) mine.residuals[r] = states_[residuals_[r]] + image * elements;
      set_.normalize_sum({state_.height * state_.width, state_.channels, mine.terms.data(),
                          static_cast<int>(end - first), mine.residuals.data(), static_cast<int>(residuals), first > 0,
                          out_ + image * elements});
    };
    each_image(cell_.images, threads_, Order::kBackwards, body);
  }

  const Cell& cell_;
  const CellKernels<State>& set_;
  const std::vector<Packed<State>>& packed_;
  std::vector<int> residuals_;
  int threads_;
  const std::vector<const State*>& states_;
  const CellState& state_;
  State* out_;
  TrainingMemory<State>& memory_;
  std::size_t outside_ = 0;  // the first operation with products elsewhere than in `out`
};

// The gradients of a separable operation's weights, from the sums of all images.
template <typename State>
void write_gradients(const Packed<State>& packed, const double* grad_pointwise, const double* grad_depthwise,
                     const double* grad_slope, const OperationGradient& out) {
  const CellTerm& term = packed.term();
  const int taps = packed.taps();
  for (int c = 0; c < packed.channels_in(); ++c) {
    const int lane = packed.lane_of(c), block = lane / kBlock, within = lane % kBlock;
    out.slope[c] = static_cast<float>(grad_slope[lane]);
    const float* filter = packed.operation().depthwise + static_cast<std::ptrdiff_t>(c) * taps;
    double by_filter = 0.0;
    for (int o = 0; o < term.out_channels; ++o) {
      const double sum =
          grad_pointwise[((static_cast<std::ptrdiff_t>(o) / kBlock * term.blocks + block) * kBlock + o % kBlock) *
                             kBlock +
                         within];
      by_filter += sum * packed.weight_at(o, c);
      out.pointwise[static_cast<std::ptrdiff_t>(o) * packed.channels_in() + c] =
          static_cast<float>(term.kernel == 1 ? sum * filter[0] : sum);
    }
    float* by_taps = out.depthwise + static_cast<std::ptrdiff_t>(c) * taps;
    if (term.kernel == 1) {
      by_taps[0] = static_cast<float>(by_filter);
      continue;
    }
    for (int tap = 0; tap < taps; ++tap) {
      by_taps[tap] = static_cast<float>(grad_depthwise[(block * taps + tap) * kBlock + within]);
    }
  }
}

// What an operation's gradient is computed from.
enum class Values {
  kProducts,   // its products, computed again
  kSum,        // the sum, of which it is the only part
  kRemainder,  // what the other operations and the residuals leave of the sum
};

// A sum in the backward pass.
template <typename State>
struct SumContext {
  const Cell& cell;
  int sum;
  const CellKernels<State>& set;
  int threads;
  const std::vector<Packed<State>>& packed;
  const std::vector<int>& residuals;
  const std::vector<const State*>& states;
  const std::vector<State*>& grad_states;
  const State* grad;
  TrainingMemory<State>& memory;

  const CellState& state() const { return cell.states[cell.inputs + sum]; }
  const State* values(int image) const { return states[cell.inputs + sum] + image * elements_of(state()); }
};

// One of its operations. `before` are those of kernels/cell, of the whole batch; `slot` is that of its products.
template <typename State>
class OperationBackward {
 public:
  OperationBackward(const SumContext<State>& context, std::size_t index, std::size_t slot, Values values,
                    std::vector<const State*> before, const double* mean, const double* variance,
                    const OperationGradient& out)
      : at_(context),
        packed_(context.packed[index]),
        index_(index),
        values_(values),
        before_(std::move(before)),
        mean_(mean),
        variance_(variance),
        out_(out),
        vectors_(packed_, memory().normalization) {
    const CellTerm& term = packed_.term();
    const std::size_t lanes = packed_.lanes_out();
    if (values != Values::kSum) {
      products_ = reserve<State>(at_.memory.operations[slot].products, packed_.products() * at_.cell.images);
    }
    moments_ = memory().moments.zeros(2 * lanes * at_.cell.images);
    vectors_.set_result(packed_, mean_, variance_);
    std::fill(vectors_.centre, vectors_.centre + lanes, 0.0f);
    for (int c = 0; c < term.out_channels && normalized(); ++c) {
      vectors_.centre[c] = values_ == Values::kProducts ? static_cast<float>(mean_[c]) : packed_.operation().beta[c];
    }
    for (int run = 0; run < runs(); ++run) at_.memory.sums[run][index_].zeros(sums_size());
  }

  // The moments of an image's gradient; those of the batch, once all images have theirs; the gradients of an image.
  void measure(const Turn& turn) const { measure_image(turn, at_.memory.threads[turn.thread]); }
  void combine() const;
  void differentiate(const Turn& turn) const { differentiate_image(turn, at_.memory.threads[turn.thread]); }

  // The gradients of the weights, once all images have been.
  void finish() const {
    if (!separable()) return;
    double* total = at_.memory.sums[0][index_].data();
    for (int run = 1; run < runs(); ++run) {
      const double* other = at_.memory.sums[run][index_].data();
      for (std::size_t i = 0; i < sums_size(); ++i) total[i] += other[i];
    }
    write_gradients(packed_, total, total + depthwise_begin(), total + depthwise_begin() + depthwise_size(), out_);
  }

 private:
  OperationMemory& memory() const { return at_.memory.operations[index_]; }
  bool separable() const { return packed_.term().kind == CellKind::kSeparable; }
  bool normalized() const { return packed_.operation().normalized; }
  std::size_t lanes_in() const { return std::size_t{kBlock} * packed_.term().blocks; }
  std::size_t depthwise_begin() const { return separable() ? packed_.lanes_out() * lanes_in() : 0; }
  std::size_t depthwise_size() const { return filters_plane(packed_.term()) ? lanes_in() * packed_.taps() : 0; }
  std::size_t slope_size() const { return separable() ? lanes_in() : 0; }
  int runs() const { return runs_of(at_.cell.images, at_.threads); }
  std::size_t sums_size() const { return depthwise_begin() + depthwise_size() + slope_size(); }

  OutputGradientOf<State> gradient_of(int image) const {
    return {at_.grad + image * elements_of(at_.state()), at_.state().channels, packed_.operation().first_out};
  }

  ImageViewOf<State> view(int image, const ThreadMemory<State>& mine) const {
    if (values_ == Values::kSum) {
      return {at_.values(image) + packed_.operation().first_out, at_.state().channels, kBlock, false};
    }
    return packed_.products_of(mine.inputs[0], products_ + image * packed_.products());
  }

  void measure_image(const Turn& turn, ThreadMemory<State>& mine) const {
    const int image = turn.image;
    const std::size_t lanes = packed_.lanes_out();
    if (values_ == Values::kRemainder) subtract_others(image, mine);
    packed_.parts_of(at_.states, image, mine.inputs);
    if (values_ == Values::kProducts) packed_.multiply(mine, turn.next, products_ + image * packed_.products());
    at_.set.gradient_moments(packed_.term(), gradient_of(image), view(image, mine), vectors_.centre,
                             moments_ + 2 * image * lanes, moments_ + (2 * image + 1) * lanes);
  }

  void subtract_others(int image, ThreadMemory<State>& mine) const {
    const std::ptrdiff_t elements = elements_of(at_.state());
    int terms = 0;
    for (std::size_t i = 0; i < at_.packed.size(); ++i) {
      if (i == index_) continue;
      OperationMemory& other = at_.memory.operations[i];
      const State* products = reserve<State>(other.products, 0) + image * at_.packed[i].products();
      mine.terms[terms++] = term_of(at_.packed[i], at_.states, image, mine, other, products);
    }
    for (std::size_t r = 0; r < at_.residuals.size(); ++r) {
      mine.residuals[r] = at_.states[at_.residuals[r]] + image * elements;
    }
    at_.set.remaining_result(
        {static_cast<int>(packed_.pixels()), at_.state().channels, mine.terms.data(), terms, mine.residuals.data(),
         static_cast<int>(at_.residuals.size()), false, products_ + image * packed_.products()},
        at_.values(image));
  }

  void differentiate_image(const Turn& turn, ThreadMemory<State>& mine) const {
    const int image = turn.image;
    packed_.parts_of(at_.states, image, mine.inputs);
    packed_.parts_of(at_.grad_states, image, mine.grad_inputs);
    packed_.parts_of(before_, image, mine.before);
    double* sums = at_.memory.sums[turn.run][index_].data();
    const CellGradientOf<State> args = {mine.inputs.data(),
                                        gradient_of(image),
                                        view(image, mine),
                                        vectors_.centre,
                                        vectors_.by_gradient,
                                        vectors_.by_product,
                                        vectors_.constant,
                                        mine.grad_inputs.data(),
                                        mine.before.data(),
                                        turn.next,
                                        sums,
                                        sums + depthwise_begin(),
                                        sums + depthwise_begin() + depthwise_size()};
    at_.set.cell_gradient(packed_.term(), args, mine.scratch.reserve(0));
  }

  const SumContext<State>& at_;
  const Packed<State>& packed_;
  std::size_t index_;
  Values values_;
  std::vector<const State*> before_;  // of all states
  const double *mean_, *variance_;
  const OperationGradient& out_;
  Normalization vectors_;
  State* products_ = nullptr;
  double* moments_ = nullptr;
};

// The gradients of gamma and beta, and the factors of dp, from
//   dp = scale * (g - sum(g) / n - normal * sum(g * normal) / n)
// where the normalised product `normal` is slope * (value - centre), plus what rounding took from the centre.
template <typename State>
void OperationBackward<State>::combine() const {
  const std::size_t lanes = packed_.lanes_out();
  const double count = static_cast<double>(packed_.pixels()) * at_.cell.images;
  std::fill(vectors_.by_gradient, vectors_.constant + lanes, 0.0f);
  for (int c = 0; c < packed_.term().out_channels; ++c) {
    double total = 0.0, by_distance = 0.0;
    for (int image = 0; image < at_.cell.images; ++image) {
      total += moments_[2 * image * lanes + c];
      by_distance += moments_[(2 * image + 1) * lanes + c];
    }
    if (!normalized()) {
      out_.gamma[c] = static_cast<float>(by_distance);
      vectors_.by_gradient[c] = packed_.operation().gamma[c];
      continue;
    }
    const double inverse = 1.0 / std::sqrt(variance_[c] + packed_.operation().epsilon);
    const double gamma = packed_.operation().gamma[c], scale = gamma * inverse;
    const bool products = values_ == Values::kProducts;
    const double slope = products ? inverse : 1.0 / gamma;
    const double rounding = products ? static_cast<double>(vectors_.centre[c]) - mean_[c] : 0.0;
    const double by_normal = slope * (by_distance + total * rounding);
    const double by_product = -scale * by_normal / count * slope;
    out_.gamma[c] = static_cast<float>(by_normal);
    out_.beta[c] = static_cast<float>(total);
    vectors_.by_gradient[c] = static_cast<float>(scale);
    vectors_.by_product[c] = static_cast<float>(by_product);
    vectors_.constant[c] = static_cast<float>(by_product * rounding - scale * total / count);
  }
}

// About how large the values of each channel of each sum are, by its normalisations; infinite where that is unknown.
std::vector<std::vector<double>> expected_sizes(const Cell& cell) {
  std::vector<std::vector<double>> sizes;
  for (std::size_t i = 0; i < cell.states.size(); ++i) {
    const bool input = i < static_cast<std::size_t>(cell.inputs);
    sizes.emplace_back(cell.states[i].channels, input ? std::numeric_limits<double>::infinity() : 0.0);
  }
  std::size_t next = 0;
  for (int sum = 0; sum + cell.inputs < static_cast<int>(cell.states.size()); ++sum) {
    std::vector<double>& size = sizes[cell.inputs + sum];
    for (; next < cell.operations.size() && cell.operations[next].sum == sum; ++next) {
      const CellOperation& operation = cell.operations[next];
      for (int c = 0; c < operation.out_channels; ++c) {
        const double gamma = std::abs(operation.gamma[c]);
        size[operation.first_out + c] +=
            operation.normalized ? gamma + std::abs(operation.beta[c]) : gamma * sizes[operation.first_state][c];
      }
    }
    for (const int source : residuals_of(cell, sum)) {
      for (std::size_t c = 0; c < size.size(); ++c) size[c] += sizes[source][c];
    }
  }
  return sizes;
}

// Operations whose products are kept at a time in the backward pass.
constexpr std::size_t kMostTogether = 4;

// Where the gradients of a sum's operations come from. An operation's result is as good as its products unless it is
// small beside the sum, whose rounding it then shares: kLargest takes five of 24 bits, in half precision four of eight.
// What this saves is computing the most expensive operation of a sum again (the idea is that of in-place activated
// normalisation, arXiv 1712.02616).
template <typename State>
std::vector<Values> choose_values(const Cell& cell, int sum, const std::vector<Packed<State>>& packed,
                                  const std::vector<int>& residuals, const std::vector<double>& size) {
  constexpr double kLargest = sizeof(State) == sizeof(float) ? 32.0 : 16.0;
  std::vector<Values> chosen(packed.size(), Values::kProducts);
  bool all_whole = true;
  for (const Packed<State>& p : packed) {
    all_whole = all_whole && p.term().out_channels == cell.states[cell.inputs + sum].channels;
  }
  const auto legible = [&](const Packed<State>& p) {
    if (p.term().kind != CellKind::kSeparable) return false;
    for (int c = 0; c < p.term().out_channels; ++c) {
      if (!(size[p.operation().first_out + c] < kLargest * std::abs(p.operation().gamma[c]))) return false;
    }
    return true;
  };
  const auto overlap = [](const CellOperation& a, const CellOperation& b) {
    return a.first_out < b.first_out + b.out_channels && b.first_out < a.first_out + a.out_channels;
  };
  std::ptrdiff_t most = 0;
  std::size_t remainder = packed.size();
  for (std::size_t i = 0; i < packed.size(); ++i) {
    if (!legible(packed[i])) continue;
    bool alone = residuals.empty();
    for (std::size_t j = 0; j < packed.size(); ++j) {
      alone = alone && (i == j || !overlap(packed[i].operation(), packed[j].operation()));
    }
    if (alone) {
      chosen[i] = Values::kSum;
    } else if (all_whole && packed[i].multiplications() > most) {
      most = packed[i].multiplications();
      remainder = i;
    }
  }
  // The others' products are all kept for it: a searched node has too many.
  if (remainder < packed.size() && packed.size() <= kMostTogether) chosen[remainder] = Values::kRemainder;
  return chosen;
}

// The operations of a sum that are taken through the batch together, each once: they read the sum's gradient once. With a
// remainder, which needs the products of all others, they are all in one group and it is the last.
std::vector<std::vector<std::size_t>> groups_of(const std::vector<Values>& values) {
  std::vector<std::vector<std::size_t>> groups;
  std::vector<std::size_t> last;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] == Values::kRemainder) {
      last.push_back(i);
      continue;
    }
    if (groups.empty() || groups.back().size() == kMostTogether) groups.emplace_back();
    groups.back().push_back(i);
  }
  if (groups.empty() && !last.empty()) groups.emplace_back();
  if (!last.empty()) groups.back().insert(groups.back().end(), last.begin(), last.end());
  return groups;
}

// The gradients of a cell's states while they are gathered, from the last sum to the first input.
template <typename State>
class StateGradients {
 public:
  StateGradients(const Cell& cell, const CellKernels<State>& set, int threads,
                 const std::vector<const State*>& grad_sums, const std::vector<State*>& memory)
      : cell_(cell), set_(set), threads_(threads), memory_(memory), given_(memory.size()), written_(memory.size()) {
    for (std::size_t i = 0; i < grad_sums.size(); ++i) {
      if (grad_sums[i] != nullptr) given_[cell.inputs + i].push_back(grad_sums[i]);
    }
  }

  // Adds a gradient that lies elsewhere and stays there.
  void give(int state, const State* gradient) { given_[state].push_back(gradient); }

  // What an operation is to add its own gradient of a state to; null for nothing. It is in memory() afterwards.
  const State* begin(int state) {
    const State* before = written_[state] ? memory_[state] : nullptr;
    if (before == nullptr && !given_[state].empty()) {
      before = given_[state].back();
      given_[state].pop_back();
    }
    written_[state] = true;
    return before;
  }

  // All that has been gathered.
  const State* gathered(int state) {
    if (!written_[state] && given_[state].size() == 1) return given_[state].front();
    return gathered_in_memory(state);
  }
  State* gathered_in_memory(int state) {
    if (!given_[state].empty()) add_given(state);
    if (!written_[state] && given_[state].empty()) {
      std::fill(memory_[state], memory_[state] + elements_of(cell_.states[state]) * cell_.images, State{});
    }
    written_[state] = true;
    given_[state].clear();
    return memory_[state];
  }

 private:
  void add_given(int state) {
    const CellState& size = cell_.states[state];
    auto body = [&](const Turn& turn) {
      const std::ptrdiff_t at = turn.image * elements_of(size);
      std::vector<const State*> images;
      for (const State* gradient : given_[state]) images.push_back(gradient + at);
      set_.normalize_sum({size.height * size.width, size.channels, nullptr, 0, images.data(),
                          static_cast<int>(images.size()), written_[state], memory_[state] + at});
    };
    each_image(cell_.images, threads_, Order::kForwards, body);
    written_[state] = true;
  }

  const Cell& cell_;
  const CellKernels<State>& set_;
  int threads_;
  std::vector<State*> memory_;
  std::vector<std::vector<const State*>> given_;
  std::vector<bool> written_;
};

}  // namespace

template <typename State>
void cell_forward(const Cell& cell, int threads, const std::vector<State*>& states, double* mean, double* variance) {
  // Before any task starts: it throws where the forced instruction set is unavailable, and tasks must not.
  const CellKernels<State>& set = cell_kernels<State>();
  const CallMemory<State> memory;
  const std::vector<const State*> readable(states.begin(), states.end());
  const int used = std::min(threads, cell.images);
  std::size_t first = 0;
  for (int sum = 0; sum < static_cast<int>(cell.states.size()) - cell.inputs; ++sum) {
    const std::size_t end = operations_end(cell, sum, first);
    const std::vector<Packed<State>> packed = pack(cell, first, end, set, *memory);
    SumForward<State>(cell, sum, set, packed, used, readable, states[cell.inputs + sum], *memory).run(mean, variance);
    for (const Packed<State>& p : packed) {
      mean += p.moments();
      variance += p.moments();
    }
    first = end;
  }
}

template <typename State>
void cell_backward(const Cell& cell, int threads, const std::vector<const State*>& states, const double* mean,
                   const double* variance, const std::vector<const State*>& grad_sums,
                   const std::vector<State*>& grad_inputs, const std::vector<OperationGradient>& gradients) {
  const CellKernels<State>& set = cell_kernels<State>();
  const CallMemory<State> memory;
  const int used = std::min(threads, cell.images);
  const int sums = static_cast<int>(cell.states.size()) - cell.inputs;
  std::vector<State*> grad_states = grad_inputs;
  if (memory->grad_sums.size() < static_cast<std::size_t>(sums)) memory->grad_sums.resize(sums);
  for (int sum = 0; sum < sums; ++sum) {
    grad_states.push_back(
        reserve<State>(memory->grad_sums[sum], elements_of(cell.states[cell.inputs + sum]) * cell.images));
  }
  const std::vector<std::vector<double>> sizes = expected_sizes(cell);
  StateGradients<State> gradients_of(cell, set, used, grad_sums, grad_states);
  std::vector<std::ptrdiff_t> moments(cell.operations.size() + 1, 0);
  for (std::size_t i = 0; i < cell.operations.size(); ++i) {
    moments[i + 1] = moments[i] + (cell.operations[i].normalized ? cell.operations[i].out_channels : 0);
  }

  std::size_t end = cell.operations.size();
  for (int sum = sums - 1; sum >= 0; --sum) {
    std::size_t first = end;
    while (first > 0 && cell.operations[first - 1].sum == sum) --first;
    const int state = cell.inputs + sum;
    // What the rest of the cell makes of this state and what follows the cell.
    const State* const grad = gradients_of.gathered(state);
    const std::vector<int> residuals = residuals_of(cell, sum);
    for (const int source : residuals) gradients_of.give(source, grad);
    const std::vector<Packed<State>> packed = pack(cell, first, end, set, *memory);
    prepare_threads(packed, residuals.size(), cell.images, used, *memory);
    const std::vector<Values> values = choose_values(cell, sum, packed, residuals, sizes[state]);
    const SumContext<State> context = {cell, sum, set, used, packed, residuals, states, grad_states, grad, *memory};
    for (const std::vector<std::size_t>& group : groups_of(values)) {
      std::vector<OperationBackward<State>> operations;
      operations.reserve(group.size());
      for (std::size_t slot = 0; slot < group.size(); ++slot) {
        const std::size_t i = group[slot];
        const CellOperation& operation = cell.operations[first + i];
        std::vector<const State*> before(cell.states.size(), nullptr);
        for (int p = 0; p < operation.parts; ++p) {
          before[operation.first_state + p] = gradients_of.begin(operation.first_state + p);
        }
        // Where all are in one group, an operation's slot is its index, by which the remainder finds it.
        operations.emplace_back(context, i, group.size() == packed.size() ? i : slot, values[i], std::move(before),
                                mean + moments[first + i], variance + moments[first + i], gradients[first + i]);
      }
      auto measure = [&operations](const Turn& turn) {
        for (const OperationBackward<State>& operation : operations) operation.measure(turn);
      };
      each_image(cell.images, used, Order::kForwards, measure);
      for (const OperationBackward<State>& operation : operations) operation.combine();
      auto differentiate = [&operations](const Turn& turn) {
        for (const OperationBackward<State>& operation : operations) operation.differentiate(turn);
      };
      each_image(cell.images, used, Order::kBackwards, differentiate);
      for (const OperationBackward<State>& operation : operations) operation.finish();
    }
    end = first;
  }
  for (int input = 0; input < cell.inputs; ++input) gradients_of.gathered_in_memory(input);
}

#define PNF_INSTANTIATE(State)                                                                                         \
  template void cell_forward<State>(const Cell&, int, const std::vector<State*>&, double*, double*);                   \
  template void cell_backward<State>(const Cell&, int, const std::vector<const State*>&, const double*, const double*, \
                                     const std::vector<const State*>&, const std::vector<State*>&,                     \
                                     const std::vector<OperationGradient>&);
PNF_INSTANTIATE(float)
PNF_INSTANTIATE(Bf16)
#undef PNF_INSTANTIATE

}  // namespace pnf
