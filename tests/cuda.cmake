# Kernels of cuda_ext, run on the CPU (label cuda_host).
function(ctxc_cuda_host_test name)
  ctxc_test(${name} ${ARGN} LIBS ctxc_cuda_host_operators ctxc_cuda_host LABELS fast cuda_host)
endfunction()
add_library(ctxc_kernel_tests OBJECT EXCLUDE_FROM_ALL cuda/sinkhorn_kernel_test.cpp cuda/depth_mix_kernel_test.cpp
  cuda/vocabulary_loss_kernel_test.cpp cuda/norm_rope_kernel_test.cpp cuda/diffusion_step_kernel_test.cpp)
target_link_libraries(ctxc_kernel_tests PRIVATE ctxc_cuda_host_operators GTest::gtest)
target_include_directories(ctxc_kernel_tests PRIVATE ${CMAKE_SOURCE_DIR}/tests)
target_precompile_headers(ctxc_kernel_tests REUSE_FROM ctxc_model)
ctxc_cuda_host_test(cuda_host_shim_test model SOURCES cuda/host_shim_test.cpp)
ctxc_cuda_host_test(cuda_kernels_test model SOURCES $<TARGET_OBJECTS:ctxc_kernel_tests> cuda/large_index_test.cpp)
ctxc_cuda_host_test(cuda_operators_test methods SOURCES cuda/operators_test.cpp)
# The same tests with kernels and shim under AddressSanitizer and UBSan. (large_index_test instantiates kernels by itself, and
# the linker would take those: the preset `asan` runs it sanitized.)
if(TARGET ctxc_cuda_host_sanitized)
  ctxc_test(cuda_kernels_sanitized_test model SOURCES $<TARGET_OBJECTS:ctxc_kernel_tests>
    LIBS ctxc_cuda_host_operators ctxc_cuda_host_sanitized LABELS slow cuda_host TIMEOUT 1200)
  # Finite differences take hundreds of launches that touch nothing new.
  set_property(TEST cuda_kernels_sanitized_test APPEND PROPERTY ENVIRONMENT "GTEST_FILTER=-*FiniteDifferences*"
               CTXC_TEST_SCHEDULES=1)
endif()

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

  # The preset `cuda` trains on a CPU to the numbers of preset `release`; skipped where that one has not been built.
  if(CTXC_CUDA STREQUAL "ON")
    add_test(NAME cuda_cpu_losses_test COMMAND ${CTXC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/same_losses.py
             ${CMAKE_BINARY_DIR}/bin ${CMAKE_SOURCE_DIR}/build/release/bin)
    set_tests_properties(cuda_cpu_losses_test PROPERTIES LABELS "slow;cuda" SKIP_RETURN_CODE 77 TIMEOUT 600)
  endif()

  # The same comparisons on a real GPU; skipped where there is none.
  ctxc_test(gpu_parity_test methods SOURCES cuda/gpu_parity_test.cpp LABELS gpu DEPENDS ctxc_cuda)
  add_executable(gpu_kernel_bench EXCLUDE_FROM_ALL cuda/gpu_kernel_bench.cpp)
  target_link_libraries(gpu_kernel_bench PRIVATE ctxc_model)
  target_precompile_headers(gpu_kernel_bench REUSE_FROM ctxc_model)
  set_target_properties(gpu_kernel_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endif()
