ctxc_test(chart_test eval SOURCES unit/chart_test.cpp)
ctxc_test(eval_score_test eval SOURCES unit/eval_score_test.cpp)
ctxc_test(score_test eval SOURCES unit/score_test.cpp)
ctxc_test(evaluation_test eval SOURCES unit/evaluation_test.cpp unit/evaluator_test.cpp unit/exporter_test.cpp unit/memory_export_test.cpp
  LIBS ctxc_exporters)
ctxc_test(llama_golden_test eval SOURCES parity/llama_golden_test.cpp DEPENDS ctxc-inspect)
ctxc_test(llama_shared_test eval SOURCES parity/llama_shared_test.cpp LABELS shared)
ctxc_test(comprexit_golden_test eval SOURCES parity/comprexit_golden_test.cpp)
ctxc_test(comprexit_shared_test eval SOURCES parity/comprexit_shared_test.cpp LABELS shared)
