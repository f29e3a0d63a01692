# LibTorch as an imported target of our own. The wheel's find_package(Torch) would force the CUDA language on and link
# libtorch_cuda; the CPU programs need two libraries only, and start in a fraction of the time.
if(NOT CTXC_TORCH_DIR)
  if(DEFINED ENV{CTXC_TORCH_DIR} AND NOT "$ENV{CTXC_TORCH_DIR}" STREQUAL "")
    set(CTXC_TORCH_DIR $ENV{CTXC_TORCH_DIR})
  else()
    set(CTXC_TORCH_DIR ${CMAKE_SOURCE_DIR}/.deps/torch)
  endif()
endif()
get_filename_component(ctxc_torch_dir ${CTXC_TORCH_DIR} REALPATH)
if(NOT EXISTS ${ctxc_torch_dir}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "No LibTorch found (looked for lib/libtorch_cpu.so below ${CTXC_TORCH_DIR}).\n"
                      "hint: run scripts/setup.sh, or set CTXC_TORCH_DIR to an existing LibTorch")
endif()
file(STRINGS ${ctxc_torch_dir}/include/torch/headeronly/version.h ctxc_torch_numbers
     REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
string(REGEX REPLACE "[^0-9;]" "" ctxc_torch_numbers "${ctxc_torch_numbers}")
string(REPLACE ";" "." CTXC_TORCH_VERSION "${ctxc_torch_numbers}")

add_library(ctxc_torch INTERFACE)
target_include_directories(ctxc_torch SYSTEM INTERFACE ${ctxc_torch_dir}/include
                                                       ${ctxc_torch_dir}/include/torch/csrc/api/include)
# The wheel ships a newer fmt than the system's and its headers win; its compiled half is not there, so it is used
# header-only. (The versions live in different inline namespaces, so core's own fmt stays apart.)
target_compile_definitions(ctxc_torch INTERFACE FMT_HEADER_ONLY=1)
target_link_libraries(ctxc_torch INTERFACE ${ctxc_torch_dir}/lib/libtorch_cpu.so ${ctxc_torch_dir}/lib/libc10.so)
target_link_options(ctxc_torch INTERFACE -Wl,--disable-new-dtags -Wl,-rpath,${ctxc_torch_dir}/lib)
