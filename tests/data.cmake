ctxc_test(batcher_test data SOURCES unit/batcher_test.cpp)
ctxc_test(data_pipeline_test data SOURCES parity/data_pipeline_test.cpp LIBS ZLIB::ZLIB)
ctxc_test(loader_test data SOURCES unit/loader_test.cpp LABELS fast threads)
ctxc_test(prompt_test data SOURCES unit/prompt_test.cpp)
ctxc_test(real_data_test data SOURCES parity/real_data_test.cpp LABELS shared LIBS ZLIB::ZLIB)
ctxc_test(source_test data SOURCES unit/source_test.cpp LIBS ZLIB::ZLIB)
ctxc_test(synthetic_test data SOURCES unit/synthetic_test.cpp)
ctxc_test(tokenizer_gguf_test data SOURCES unit/tokenizer_gguf_test.cpp)
ctxc_test(tokenizer_shared_test data SOURCES parity/tokenizer_shared_test.cpp LABELS shared)
ctxc_test(tokenizer_test data SOURCES unit/tokenizer_test.cpp LABELS fast threads)

# Not a test: tests/bench/tokenizer_bench.py runs it beside the Python package.
add_executable(tokenizer_bench EXCLUDE_FROM_ALL bench/tokenizer_bench.cpp)
target_link_libraries(tokenizer_bench PRIVATE ctxc_data)
