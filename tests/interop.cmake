# Tests against the real Python packages, only where scripts/interop.sh made their environment.
set(ctxc_interop_python ${CMAKE_SOURCE_DIR}/.deps/interop/bin/python)
if(EXISTS ${CMAKE_SOURCE_DIR}/.deps/interop/.version)
  # ctxc_interop(NAME SCRIPT): tests/interop/SCRIPT exits 0 when ctxc and the package agree. CURRENT: a second time, with
  # the newer versions that requirements-current.txt pins.
  function(ctxc_interop name script)
    set(path_ "")
    set(path_current ${CMAKE_SOURCE_DIR}/.deps/interop/current)
    set(versions "_")
    if("CURRENT" IN_LIST ARGN)
      list(APPEND versions "_current")
    endif()
    foreach(version IN LISTS versions)
      string(REGEX REPLACE "_$" "" test ${name}${version})
      add_test(NAME ${test} COMMAND ${ctxc_interop_python} ${CMAKE_CURRENT_SOURCE_DIR}/interop/${script})
      set_tests_properties(${test} PROPERTIES LABELS interop TIMEOUT 1200 ENVIRONMENT
        "CTXC_ROOT=${CMAKE_SOURCE_DIR};CTXC_BIN=${CMAKE_BINARY_DIR}/bin;OMP_NUM_THREADS=2;HF_HUB_OFFLINE=1;CUDA_VISIBLE_DEVICES=;PYTHONPATH=${path${version}}")
    endforeach()
  endfunction()
  ctxc_interop(interop_peft_prompt peft_prompt.py CURRENT)
  ctxc_interop(interop_memory_kv memory_kv.py CURRENT)
  ctxc_interop(interop_cards cards.py CURRENT)
  ctxc_interop(interop_llamacpp llamacpp_state.py)
  ctxc_interop(interop_lora lora.py)
  add_test(NAME interop_example COMMAND ${CMAKE_SOURCE_DIR}/experiments/interop/run.sh)
  set_tests_properties(interop_example PROPERTIES LABELS interop TIMEOUT 1200 SKIP_REGULAR_EXPRESSION
    "CTXC_SKIP_WHOLE_TEST" ENVIRONMENT "CTXC_BIN=${CMAKE_BINARY_DIR}/bin;OUT=${CMAKE_BINARY_DIR}/interop-example;STEPS=2;\
KEYS=queries.count=4 queries.held_out=2 queries.max_new=4 train.batch=2 compressor.recon.chunk=32")
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/interop/tokenizers_parity.py)
    ctxc_interop(interop_tokenizers tokenizers_parity.py)
  endif()
endif()
