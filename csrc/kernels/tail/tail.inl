// The tail's kernels. Include after a vocabulary from kernels/simd, with PNF_ISA naming its namespace.
#include "kernels/tail/tail.h"

namespace pnf::PNF_ISA {
namespace {

constexpr int kVecs = kBlock / kLanes;

PNF_INLINE float as_float(float x) { return x; }
PNF_INLINE float as_float(Bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16); }

// Blocks of outputs side by side: enough independent sums to hide the latency of a fused multiply-add.
template <int NB, typename State>
void linear_blocks(const LinearOf<State>& args, int block) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(args.inputs) * kBlock;
  const float* weights = args.weights + block * stride;
  Vec acc[NB * kVecs];
#pragma GCC unroll 64
  for (int i = 0; i < NB * kVecs; ++i) acc[i] = load(args.bias + block * kBlock + i * kLanes);
  for (int k = 0; k < args.inputs; ++k) {
    const Vec x = splat(as_float(args.input[k]));
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        acc[b * kVecs + v] = fma(x, load(weights + b * stride + k * kBlock + v * kLanes), acc[b * kVecs + v]);
      }
    }
  }
  float result[NB * kBlock];
#pragma GCC unroll 64
  for (int i = 0; i < NB * kVecs; ++i) store(result + i * kLanes, acc[i]);
  const int count = args.outputs - block * kBlock < NB * kBlock ? args.outputs - block * kBlock : NB * kBlock;
  float* out = args.output + block * kBlock;
  for (int i = 0; i < count; ++i) out[i] = args.accumulate ? out[i] + result[i] : result[i];
}

template <bool HasCap, typename State>
void global_depthwise_of(const GlobalDepthwiseOf<State>& args, int block_begin, int block_end) {
  constexpr int kSums = 4;
  for (int block = block_begin; block < block_end; ++block) {
    const State* in = args.input + block * args.block_stride;
    const float* weights = args.weights + static_cast<std::ptrdiff_t>(block) * args.pixels * kBlock;
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      const Vec slope = load(args.slope + block * kBlock + lane);
      const Vec cap = HasCap ? load(args.cap + block * kBlock + lane) : splat(0.0f);
      const auto active = [&](std::ptrdiff_t at) {
        const Vec value = prelu(load(in + at), slope);
        return HasCap ? at_most(value, cap) : value;
      };
      Vec acc[kSums] = {load(args.bias + block * kBlock + lane), splat(0.0f), splat(0.0f), splat(0.0f)};
      int p = 0;
      for (; p + kSums <= args.pixels; p += kSums) {
#pragma GCC unroll 4
        for (int i = 0; i < kSums; ++i) {
          const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(p + i) * kBlock + lane;
          acc[i] = fma(load(weights + at), active(at), acc[i]);
        }
      }
      for (; p < args.pixels; ++p) {
        const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(p) * kBlock + lane;
        acc[0] = fma(load(weights + at), active(at), acc[0]);
      }
      store(args.output + block * kBlock + lane, add(add(acc[0], acc[1]), add(acc[2], acc[3])));
    }
  }
}

template <typename State>
void global_depthwise_of(const GlobalDepthwiseOf<State>& args, int block_begin, int block_end) {
  if (args.cap == nullptr) {
    global_depthwise_of<false>(args, block_begin, block_end);
  } else {
    global_depthwise_of<true>(args, block_begin, block_end);
  }
}

template <typename State>
void linear_of(const LinearOf<State>& args, int block_begin, int block_end) {
  constexpr int kGroup = 8 / kVecs > 1 ? 8 / kVecs : 1;
  int block = block_begin;
  for (; block + kGroup <= block_end; block += kGroup) linear_blocks<kGroup>(args, block);
  for (; block < block_end; ++block) linear_blocks<1>(args, block);
}

}  // namespace

void global_depthwise(const GlobalDepthwise& args, int block_begin, int block_end) {
  global_depthwise_of(args, block_begin, block_end);
}

void linear(const Linear& args, int block_begin, int block_end) { linear_of(args, block_begin, block_end); }

void global_depthwise(const GlobalDepthwiseOf<Bf16>& args, int block_begin, int block_end) {
  global_depthwise_of(args, block_begin, block_end);
}

void linear(const LinearOf<Bf16>& args, int block_begin, int block_end) { linear_of(args, block_begin, block_end); }

}  // namespace pnf::PNF_ISA
