ctxc_test(batcher_test data SOURCES unit/batcher_test.cpp)
ctxc_test(loader_test data SOURCES unit/loader_test.cpp LABELS fast threads)
