# build/…/generated/version.h: what --version prints. Written at build time, and only when it changes, so that a commit
# rebuilds one file and not the project.
set(CTXC_VERSION_DIR ${CMAKE_BINARY_DIR}/generated)
add_custom_target(ctxc_version_header
  COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${CMAKE_SOURCE_DIR} -DOUT=${CTXC_VERSION_DIR}/version.h
          -DVERSION=${PROJECT_VERSION} -DTORCH_VERSION=${CTXC_TORCH_VERSION}
          "-DCOMPILER=${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}" "-DBUILD_TYPE=${CMAKE_BUILD_TYPE}"
          -P ${CMAKE_SOURCE_DIR}/cmake/write_version.cmake
  BYPRODUCTS ${CTXC_VERSION_DIR}/version.h VERBATIM)
