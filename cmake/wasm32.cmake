# Cross compilation with Debian's emscripten, to modules that need no JavaScript of its own (web/src/module.js loads them).
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR wasm32)
set(CMAKE_CXX_COMPILER em++)
set(CMAKE_AR emar)
set(CMAKE_RANLIB emranlib)
# CMake links its trials, and a module is linked with options of its own.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
# Exceptions of the machine: those that emscripten emulates need its JavaScript.
set(CMAKE_CXX_FLAGS_INIT "-msimd128 -fwasm-exceptions")
