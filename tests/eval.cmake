ctxc_test(chart_test eval SOURCES unit/chart_test.cpp)
ctxc_test(eval_score_test eval SOURCES unit/eval_score_test.cpp)
ctxc_test(score_test eval SOURCES unit/score_test.cpp)
ctxc_test(evaluation_test eval SOURCES unit/evaluation_test.cpp unit/exporter_test.cpp LIBS ctxc_exporters)
