# Whether the CUDA plugin is built: CTXC_CUDA = AUTO (where nvcc is), ON (an error without it), OFF. Needs nvcc alone, neither
# a driver nor LibTorch's CUDA libraries, which are only loaded when a run asks for a GPU. nvcc is called by custom commands:
# CMake's CUDA language would want a dialect as new as our C++, which CMake 3.25 does not know, and would keep no ptxas log.
set(CTXC_CUDA AUTO CACHE STRING "Build the CUDA plugin: AUTO (if nvcc is found), ON or OFF")
set_property(CACHE CTXC_CUDA PROPERTY STRINGS AUTO ON OFF)
set(CTXC_CUDA_ARCHITECTURES 80 90 CACHE STRING "Compute capabilities with code of their own; the last one also as PTX")
set(ctxc_cuda_found OFF)
# Warnings are errors where the plugin was asked for by name; a compiler that AUTO happened to find may have more of them.
string(COMPARE EQUAL "${CTXC_CUDA}" "ON" ctxc_cuda_werror)
if(NOT CTXC_CUDA STREQUAL "OFF")
  find_program(CTXC_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  if(CTXC_NVCC)
    get_filename_component(ctxc_cuda_root ${CTXC_NVCC} REALPATH)
    get_filename_component(ctxc_cuda_root ${ctxc_cuda_root} DIRECTORY)
    find_library(CTXC_CUDART cudart HINTS ${ctxc_cuda_root}/../lib64 ${ctxc_cuda_root}/../lib
                 ${ctxc_cuda_root}/../targets/x86_64-linux/lib)
  endif()
  set(ctxc_nvcc_version 0)
  if(CTXC_NVCC)
    execute_process(COMMAND ${CTXC_NVCC} --version OUTPUT_VARIABLE ctxc_nvcc_text ERROR_QUIET)
    if(ctxc_nvcc_text MATCHES "release ([0-9]+)\\.")
      set(ctxc_nvcc_version ${CMAKE_MATCH_1})
    endif()
  endif()
  if(CTXC_CUDART AND ctxc_nvcc_version GREATER_EQUAL 13)  # what LibTorch 2.11 is built with
    set(ctxc_cuda_found ON)
  elseif(CTXC_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CTXC_CUDA=ON, but there is no CUDA toolkit 13 (nvcc: ${CTXC_NVCC}, version ${ctxc_nvcc_version}, "
                        "libcudart: ${CTXC_CUDART}).\nhint: put nvcc on PATH, or set CUDA_HOME")
  endif()
endif()
if(ctxc_cuda_found)
  message(STATUS "CUDA plugin: ${CTXC_NVCC}, for compute capability ${CTXC_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA plugin: not built (CTXC_CUDA=${CTXC_CUDA}, nvcc ${CTXC_NVCC})")
endif()
