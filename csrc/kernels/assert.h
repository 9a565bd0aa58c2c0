// PNF_ASSERT(condition) stands where a kernel indexes an array of fixed size. It is nothing unless PNF_ASSERTIONS is
// defined, as the build of the tests does under sanitizers: a library that is installed never ends its process.
#pragma once

#if defined(PNF_ASSERTIONS)
namespace pnf {

// Says which one failed, and aborts.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace pnf
#define PNF_ASSERT(condition) ((condition) ? void() : ::pnf::assertion_failed(#condition, __FILE__, __LINE__))
#else
#define PNF_ASSERT(condition) void()
#endif
