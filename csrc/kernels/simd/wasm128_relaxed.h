#pragma once
#define PNF_WASM128 wasm128_relaxed
#include "kernels/simd/wasm128.h"
