ctxc_test(data_programs_test core SOURCES cli/data_programs_test.cpp DEPENDS ctxc-eval ctxc-inspect)
