# Use ccache when it is there. Precompiled headers need the sloppiness below (ccache manual, "Precompiled headers");
# the base directory lets clones in other folders share the cache.
find_program(CTXC_CCACHE ccache)
if(CTXC_CCACHE)
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CTXC_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()
