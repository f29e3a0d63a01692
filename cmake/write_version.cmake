# Run at build time by ctxc_version_header.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
execute_process(COMMAND git -C ${SOURCE_DIR} status --porcelain --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET)
if(changes)
  string(APPEND commit "-dirty")
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT "#pragma once
#define CTXC_VERSION \"@VERSION@\"
#define CTXC_COMMIT \"@commit@\"
#define CTXC_COMPILER \"@COMPILER@\"
#define CTXC_BUILD_TYPE \"@BUILD_TYPE@\"
#define CTXC_TORCH_VERSION \"@TORCH_VERSION@\"
")
