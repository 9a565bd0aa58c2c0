#include "support.h"

namespace pnf::test {

bool tiles_in_use() {
  alignas(64) unsigned char shapes[64] = {};
#if defined(__x86_64__)
  asm volatile(".byte 0xc4, 0xe2, 0x79, 0x49, 0x00" : : "a"(shapes) : "memory");  // sttilecfg (%rax)
#endif
  return shapes[0] != 0;
}

}  // namespace pnf::test
