# find_package(pocketnet_fast) gives the target pocketnet_fast::ops: the shared library with the operators that a
# fused TorchScript file calls. Link it, or dlopen the file in POCKETNET_FAST_OPS before torch::jit::load. Errors of a
# file that runs are std::runtime_error, not c10::Error: catch std::exception.
get_filename_component(_pocketnet_fast_lib "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
set(POCKETNET_FAST_OPS "${_pocketnet_fast_lib}/libpnf_ops.so")
if(NOT EXISTS "${POCKETNET_FAST_OPS}")
  set(pocketnet_fast_FOUND FALSE)
  set(pocketnet_fast_NOT_FOUND_MESSAGE "libpnf_ops.so is missing beside this file; reinstall the package")
  return()
endif()
if(NOT TARGET pocketnet_fast::ops)
  add_library(pocketnet_fast::ops SHARED IMPORTED)
  # Operators register themselves when the library is loaded; nothing refers to its symbols.
  set_target_properties(pocketnet_fast::ops PROPERTIES
    IMPORTED_LOCATION "${POCKETNET_FAST_OPS}"
    INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed")
endif()
unset(_pocketnet_fast_lib)
