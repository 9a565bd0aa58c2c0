// What Python calls of libpnf_ops by ctypes besides its registered operators: facts, and measurements.
//
// Calls that return `int` return a status. What they give as text belongs to the calling thread, until its next call.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define PNF_EXPORT __attribute__((visibility("default")))

enum { PNF_DONE = 0, PNF_REFUSED = 1, PNF_NO_MEMORY = 2, PNF_FAILED = 3 };

extern "C" {

// What the calling thread's last call that failed says.
PNF_EXPORT const char* pnf_error();

// Name of the set whose kernels run, for floats or for states of half precision.
PNF_EXPORT int pnf_isa(int half, const char** name);
// The same for programs that load the library and link nothing of it: empty after an error, and the text lives as long
// as the library.
PNF_EXPORT const char* pnf_compiled_isa(int half) noexcept;
// A line each, best first: "+" or "-", whether this CPU has it, and the name.
PNF_EXPORT int pnf_isas(int half, const char** names);
// 1 or 0: whether the CPU has tile registers (AMX) and the system refuses them to this process.
PNF_EXPORT int pnf_tiles_denied();
// The named kernels from now on; an empty name returns to the default.
PNF_EXPORT int pnf_force_isa(const char* name);

// Processors of the affinity mask and of the control groups' quotas, 0 for no limit, and how many a call uses.
PNF_EXPORT int pnf_processors(int* affinity, int* quota, int* usable);
// From now on, torch's operators that the calling thread calls run on it alone.
PNF_EXPORT int pnf_torch_on_this_thread_alone();

// Seconds spent in each step of a program over uint8 images [images][height][width][3], on the calling thread. `steps`
// is how many steps there are, of which the first `capacity` are written.
PNF_EXPORT int pnf_profile(const int32_t* program, size_t words, const float* weights, size_t floats,
                           const uint8_t* pixels, size_t bytes, double* seconds, size_t capacity, size_t* steps);
// exp(x) as the kernels compute it; `count` is a multiple of 16.
PNF_EXPORT int pnf_exponential(const float* x, size_t count, float* out);
// Measured multiply-add peak of the calling thread, of floats or of bfloat16, in GFLOP/s.
PNF_EXPORT int pnf_peak_gflops(int half, double* gflops);
// Measured rate at which the calling thread reads so many bytes again and again, in GB/s.
PNF_EXPORT int pnf_read_gbs(size_t bytes, double* gbs);

}  // extern "C"
