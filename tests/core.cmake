ctxc_test(error_test core SOURCES unit/error_test.cpp)
