ctxc_test(numerics_test model SOURCES unit/numerics_test.cpp)
