// The sets of instructions that kernels are compiled for, each a namespace of its own. PNF_EACH_ISA(declare) is
// declare(scalar), declare(avx2) and so on.
#pragma once

// Sets that kernels of training and of measurements are for, too.
#define PNF_EACH_TRAINING_ISA(declare) declare(scalar) declare(avx2) declare(avx512) declare(neon)

#define PNF_EACH_ISA(declare) PNF_EACH_TRAINING_ISA(declare) declare(wasm128) declare(wasm128_relaxed)

// Sets whose own kernels are of half precision.
#define PNF_EACH_BF16_ISA(declare) declare(avx512_bf16) declare(amx_bf16) declare(neon_bf16)
