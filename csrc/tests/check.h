// Checks of the native tests. A test is a main() that makes checks and ends in `return check::result();`, or in
// `return check::run(this, that);` with functions that make them.
#pragma once
#include <cstdarg>
#include <cstdio>

namespace check {

inline long made = 0;
inline long failed = 0;

// Reports the first failures in full and counts the others.
__attribute__((format(printf, 3, 4))) inline void fail(const char* file, int line, const char* format, ...) {
  constexpr int kPrinted = 20;
  if (++failed > kPrinted) return;
  std::fprintf(stderr, "%s:%d: ", file, line);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

// A test that checked nothing has not passed.
inline int result() {
  std::fprintf(stderr, "%ld checks, %ld failed\n", made, failed);
  return failed != 0 || made == 0;
}

template <typename... Tests>
int run(Tests... tests) {
  (tests(), ...);
  return result();
}

}  // namespace check

// CHECK(condition, "what is wrong", ...), as printf formats it; the arguments are evaluated on failure only.
#define CHECK(condition, ...)                                       \
  do {                                                              \
    ++check::made;                                                  \
    if (!(condition)) check::fail(__FILE__, __LINE__, __VA_ARGS__); \
  } while (false)

#define CHECK_THROWS(exception, expression, ...) \
  do {                                           \
    bool thrown = false;                         \
    try {                                        \
      (void)(expression);                        \
    } catch (const exception&) {                 \
      thrown = true;                             \
    }                                            \
    CHECK(thrown, __VA_ARGS__);                  \
  } while (false)
