ctxc_test(numerics_test model SOURCES unit/numerics_test.cpp)
ctxc_test(llama_config_test model SOURCES unit/llama_config_test.cpp)
ctxc_test(weights_test model SOURCES unit/weights_test.cpp LABELS fast shared)
