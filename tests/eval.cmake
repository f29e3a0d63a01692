ctxc_test(chart_test eval SOURCES unit/chart_test.cpp)
