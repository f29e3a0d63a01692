# The allocator of the programs. A training step asks for and frees thousands of tensors of many sizes, which glibc's
# allocator spends up to a fifth of the step on and tcmalloc next to nothing. Sanitizers bring their own.
set(CTXC_ALLOCATOR "auto" CACHE STRING "auto (tcmalloc where it is installed), tcmalloc or system")
add_library(ctxc_allocator INTERFACE)
if(NOT CTXC_ALLOCATOR STREQUAL "system" AND NOT CTXC_SANITIZE)
  find_library(CTXC_TCMALLOC NAMES tcmalloc_minimal libtcmalloc_minimal.so.4)
  if(CTXC_TCMALLOC)
    # Nothing names a symbol of it: the linker must not drop it as unneeded.
    target_link_libraries(ctxc_allocator INTERFACE -Wl,--no-as-needed ${CTXC_TCMALLOC} -Wl,--as-needed)
    message(STATUS "allocator: ${CTXC_TCMALLOC}")
  elseif(CTXC_ALLOCATOR STREQUAL "tcmalloc")
    message(FATAL_ERROR "CTXC_ALLOCATOR=tcmalloc, but tcmalloc_minimal is not installed (Debian: libgoogle-perftools-dev)")
  else()
    message(STATUS "allocator: the system's; steps are slower than with tcmalloc (Debian: libgoogle-perftools-dev)")
  endif()
endif()
