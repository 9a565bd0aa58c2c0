// libpnf_ops.so of pocketnet_fast: the operators that a file of fused kernels, or one that takes photos, calls.
#pragma once
#include <string>

namespace pocketnet::hosting {

// Loads the library, which registers its operators with LibTorch; they stay to the end of the process. To be called
// before such a file is loaded. Throws std::runtime_error if there is no such file or it cannot be loaded.
void load_operators(const std::string& library);

// Where CMake found the library when this program was built; empty if it found none, or if it is there no more.
std::string installed_operators();

bool operators_are_loaded();

}  // namespace pocketnet::hosting
