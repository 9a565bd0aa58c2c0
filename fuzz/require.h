// What must hold of an answer, whatever the input.
#pragma once
#include <cstdio>
#include <cstdlib>

// A fuzzer keeps the input of a process that ends like this.
#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)
