# The one list of instruction sets: name, the processor it belongs to ("any" for all), the operations that have kernels
# of it ("all", or their names), and flags.
set(PNF_ISAS
    "scalar|any|all|"
    "avx2|x86_64|all|-mavx2 -mfma"
    "avx512|x86_64|all|-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma"
    "avx512_bf16|x86_64|node stem margin_cross_entropy cell probe|-mavx512bf16 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma"
    "amx_bf16|x86_64|node stem probe|-mamx-tile -mamx-bf16 -mavx512bf16 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma"
    "neon|aarch64|all|"
    "neon_bf16|aarch64|node stem probe|-march=armv8.2-a+bf16"
    "neon|arm|all|-mfpu=neon-vfpv4"
    "wasm128|wasm32|node stem tail|-msimd128"
    "wasm128_relaxed|wasm32|node stem tail|-msimd128 -mrelaxed-simd")

# 32-bit ARM is named by its version where it is not cross-compiled for.
set(PNF_PROCESSOR ${CMAKE_SYSTEM_PROCESSOR})
if(PNF_PROCESSOR MATCHES "^armv[0-9]")
  set(PNF_PROCESSOR arm)
endif()

# Those that csrc/tests/emulated_avx512 has a vocabulary in plain C++ of, and the others. An engine refuses a module with
# an instruction that it lacks, so csrc/wasm32 makes another one of wasm128_relaxed.
set(PNF_WIDE_ISAS avx512 avx512_bf16 amx_bf16)
set(PNF_NARROW_ISAS scalar avx2 neon neon_bf16 wasm128)

# Adds <op>/<op>_<isa>.cpp to `target`, of those of the sets named that the target processor has, each with its own
# flags; with EMULATED without them. Kernels throw nothing, and the personality of exceptions would be a symbol that
# objects share. What is to be a vector says so: where compilers make vectors of a node's addresses, these wait behind the
# multiply-adds before them.
function(pnf_add_kernels target)
  cmake_parse_arguments(ARG "EMULATED" "" "" ${ARGN})
  foreach(entry IN LISTS PNF_ISAS)
    string(REPLACE "|" ";" fields "${entry}")
    list(POP_FRONT fields isa processor operations)
    separate_arguments(operations)
    separate_arguments(flags UNIX_COMMAND "${fields}")
    if(ARG_EMULATED)
      set(flags -Wno-psabi)
    endif()
    if(NOT isa IN_LIST ARG_UNPARSED_ARGUMENTS
       OR (NOT processor STREQUAL "any" AND NOT processor STREQUAL PNF_PROCESSOR))
      continue()
    endif()
    set(built node stem tail)
    if(PNF_TRAINING)
      list(APPEND built margin_cross_entropy cell probe)
    endif()
    foreach(op IN LISTS built)
      if(NOT operations STREQUAL "all" AND NOT op IN_LIST operations)
        continue()
      endif()
      set(source ${PROJECT_SOURCE_DIR}/csrc/kernels/${op}/${op}_${isa}.cpp)
      target_sources(${target} PRIVATE ${source})
      set(options ${PNF_O3} -fno-exceptions ${flags})
      if(op MATCHES "node|stem|tail" OR "${op}_${isa}" MATCHES "cell_(scalar|avx2)")
        # Their loops are unrolled by hand: -O3 gives as quick ones and a sixth more of them, or twice as many, which
        # compile for three times as long (cell_scalar). The cell's other sets have not been compared.
        list(APPEND options ${PNF_O2})
      endif()
      if(op STREQUAL "node" AND NOT isa STREQUAL "scalar")
        list(APPEND options -fno-tree-vectorize)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${options}"
                                  TARGET_DIRECTORY ${target})
    endforeach()
  endforeach()
endfunction()
