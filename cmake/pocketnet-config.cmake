# find_package(pocketnet) gives the target pocketnet::pocketnet: the C library that lies inside the Python package.
get_filename_component(_pocketnet_package "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT EXISTS "${_pocketnet_package}/lib/libpocketnet.so.1")
  set(pocketnet_FOUND FALSE)
  set(pocketnet_NOT_FOUND_MESSAGE "libpocketnet.so.1 is missing beside this file; reinstall the package")
  return()
endif()
if(NOT TARGET pocketnet::pocketnet)
  add_library(pocketnet::pocketnet SHARED IMPORTED)
  set_target_properties(pocketnet::pocketnet PROPERTIES
    IMPORTED_LOCATION "${_pocketnet_package}/lib/libpocketnet.so.1"
    IMPORTED_SONAME libpocketnet.so.1
    INTERFACE_INCLUDE_DIRECTORIES "${_pocketnet_package}/include")
endif()
unset(_pocketnet_package)
