# Run at build time: compiles one .cu file and keeps what ptxas says of registers and spills.
# usage: cmake -DNVCC=… -DSOURCE=… -DOBJECT=… -DLOG=… -DINCLUDE=… -DARCHITECTURES=80,90 -DWERROR=ON -P nvcc.cmake
cmake_minimum_required(VERSION 3.25)
string(REPLACE "," ";" architectures "${ARCHITECTURES}")
list(GET architectures -1 newest)
set(code)
foreach(arch IN LISTS architectures)
  list(APPEND code --generate-code=arch=compute_${arch},code=sm_${arch})
endforeach()
list(APPEND code --generate-code=arch=compute_${newest},code=compute_${newest})
set(strict)
if(WERROR)
  set(strict -Werror=all-warnings -Xcompiler=-Werror)
endif()
execute_process(
  COMMAND ${NVCC} -std=c++17 -O3 -I${INCLUDE} ${code} -Xptxas=-v ${strict}
          -Xcompiler=-fPIC,-Wall,-Wextra,-fvisibility=hidden -c ${SOURCE} -o ${OBJECT}
  RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
file(WRITE ${LOG} "${text}")
if(text MATCHES "warning")
  message(STATUS "${text}")
endif()
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${text}")
endif()
