ctxc_test(data_programs_test core SOURCES cli/data_programs_test.cpp DEPENDS ctxc-eval ctxc-inspect)
ctxc_test(programs_test core SOURCES cli/programs_test.cpp
  DEPENDS ctxc-train ctxc-eval ctxc-export ctxc-run ctxc-inspect)
ctxc_test(memory_programs_test core SOURCES cli/memory_programs_test.cpp LABELS slow
  DEPENDS ctxc-train ctxc-export ctxc-run ctxc-inspect)
