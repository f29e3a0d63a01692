# Kernels of cuda_ext, run on the CPU (label cuda_host).
function(ctxc_cuda_host_test name)
  ctxc_test(${name} ${ARGN} LIBS ctxc_cuda_host_operators LABELS fast cuda_host)
endfunction()
ctxc_cuda_host_test(cuda_host_shim_test model SOURCES cuda/host_shim_test.cpp)
ctxc_cuda_host_test(cuda_kernels_test model SOURCES cuda/sinkhorn_kernel_test.cpp cuda/depth_mix_kernel_test.cpp
  cuda/vocabulary_loss_kernel_test.cpp cuda/norm_rope_kernel_test.cpp cuda/diffusion_step_kernel_test.cpp
  cuda/large_index_test.cpp)
ctxc_cuda_host_test(cuda_operators_test methods SOURCES cuda/operators_test.cpp)

# The device path, with a libcuda.so.1 of the tests' own.
add_library(ctxc_fake_driver SHARED EXCLUDE_FROM_ALL cuda/fake_driver.cpp)
set_target_properties(ctxc_fake_driver PROPERTIES OUTPUT_NAME cuda SUFFIX .so.1
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/fake_driver)
ctxc_test(device_test model SOURCES cuda/device_test.cpp DEPENDS ctxc_fake_driver ctxc-train)
set_property(TEST device_test APPEND PROPERTY ENVIRONMENT "LD_LIBRARY_PATH=${CMAKE_BINARY_DIR}/tests/fake_driver")

# Only where the plugin is built.
if(TARGET ctxc_cuda)
  find_program(CTXC_PYTHON python3 REQUIRED)
  string(REPLACE ";" "," architectures "${CTXC_CUDA_ARCHITECTURES}")
  add_test(NAME cuda_device_code_test COMMAND ${CTXC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/device_code.py
           ${CMAKE_BINARY_DIR} --architectures ${architectures})
  set_tests_properties(cuda_device_code_test PROPERTIES LABELS "fast;cuda")

  # The same comparisons on a real GPU; skipped where there is none.
  ctxc_test(gpu_parity_test methods SOURCES cuda/gpu_parity_test.cpp LABELS gpu DEPENDS ctxc_cuda)
  add_executable(gpu_kernel_bench EXCLUDE_FROM_ALL cuda/gpu_kernel_bench.cpp)
  target_link_libraries(gpu_kernel_bench PRIVATE ctxc_model)
  target_precompile_headers(gpu_kernel_bench REUSE_FROM ctxc_model)
  set_target_properties(gpu_kernel_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endif()
