# The build rules every folder shares.

# ISO-rounding everywhere: no fused multiply-add behind our back, so that an oracle does not depend
# on flags. Kernels that want FMA ask for it by intrinsic.
add_library(ts_flags INTERFACE)
# gcc 12 sees overlaps in "literal" + std::string that are not there (its bug 105651).
set(TAILOR_HOST_FLAGS -Wall -Wextra -Werror $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  -ffp-contract=off -fno-math-errno)
target_compile_options(ts_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${TAILOR_HOST_FLAGS}>")
target_include_directories(ts_flags INTERFACE ${CMAKE_SOURCE_DIR})
if(TAILOR_SANITIZE)
  target_compile_options(ts_flags INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${TAILOR_SANITIZE};-fno-omit-frame-pointer;-fno-sanitize-recover=all>")
  target_link_options(ts_flags INTERFACE -fsanitize=${TAILOR_SANITIZE})
endif()

find_program(TAILOR_CCACHE ccache)
if(TAILOR_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TAILOR_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${TAILOR_CCACHE})
endif()
find_program(TAILOR_MOLD mold)
if(TAILOR_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# ts_library(ts_name SOURCES a.cc ... DEPS ts::other absl::status ...)
# A folder's library, with the alias ts::name. DEPS are public: an include of another folder's
# header needs the arrow in the CMake file.
function(ts_library target)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  string(REGEX REPLACE "^ts_" "" name ${target})
  if(A_SOURCES)
    add_library(${target} STATIC ${A_SOURCES})
    target_link_libraries(${target} PUBLIC ts_flags ${A_DEPS})
  else()
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE ts_flags ${A_DEPS})
  endif()
  add_library(ts::${name} ALIAS ${target})
endfunction()

# ts_simd_source(ts_ops a_avx512.cc): compiles one file for a SIMD level, named by its suffix.
# gcc 12's own AVX-512 header trips -Wmaybe-uninitialized.
function(ts_simd_source target)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "_avx512\\.cc$")
      set(flags -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mfma -mf16c
        $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> -Wno-uninitialized)
    elseif(source MATCHES "_avx2\\.cc$")
      set(flags -mavx2 -mfma -mf16c)
    else()
      message(FATAL_ERROR "${source}: SIMD sources end in _avx2.cc or _avx512.cc")
    endif()
    target_sources(${target} PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
  endforeach()
endfunction()

# ts_test(common/status_test DEPS ts::common): tests/common/status_test.cc as one ctest program.
function(ts_test path)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  string(REPLACE "/" "_" target ${path})
  add_executable(${target} ${CMAKE_SOURCE_DIR}/tests/${path}.cc ${A_SOURCES})
  target_link_libraries(${target} PRIVATE ts_flags ${A_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${target} PRIVATE TAILOR_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  add_test(NAME ${path} COMMAND ${target})
  set_tests_properties(${path} PROPERTIES TIMEOUT ${A_TIMEOUT} SKIP_RETURN_CODE 77)
endfunction()
