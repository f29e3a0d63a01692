ctxc_test(error_test core SOURCES unit/error_test.cpp)
ctxc_test(cli_test core SOURCES unit/cli_test.cpp)
ctxc_test(config_test core SOURCES unit/config_test.cpp)
ctxc_test(yaml_test core SOURCES unit/yaml_test.cpp)
