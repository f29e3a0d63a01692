# Tests against the real Python packages, only where scripts/interop.sh made their environment.
set(ctxc_interop_python ${CMAKE_SOURCE_DIR}/.deps/interop/bin/python)
if(EXISTS ${CMAKE_SOURCE_DIR}/.deps/interop/.version)
  # ctxc_interop(NAME SCRIPT): tests/interop/SCRIPT exits 0 when ctxc and the package agree.
  function(ctxc_interop name script)
    add_test(NAME ${name} COMMAND ${ctxc_interop_python} ${CMAKE_CURRENT_SOURCE_DIR}/interop/${script})
    set_tests_properties(${name} PROPERTIES LABELS interop TIMEOUT 1200 ENVIRONMENT
      "CTXC_ROOT=${CMAKE_SOURCE_DIR};CTXC_BIN=${CMAKE_BINARY_DIR}/bin;OMP_NUM_THREADS=2;HF_HUB_OFFLINE=1;CUDA_VISIBLE_DEVICES=")
  endfunction()
  ctxc_interop(interop_peft_prompt peft_prompt.py)
  ctxc_interop(interop_memory_kv memory_kv.py)
  ctxc_interop(interop_llamacpp llamacpp_state.py)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/interop/tokenizers_parity.py)
    ctxc_interop(interop_tokenizers tokenizers_parity.py)
  endif()
endif()
