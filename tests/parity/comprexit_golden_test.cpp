// ComprExIT against a plain reference (tests/fixtures/make_comprexit_golden.py, itself checked against
// tensors of the method's own repository): ragged last windows, empty windows, runs that are cut, padding,
// generation, map-reduce.
#include "eval/trace_method.h"
#include "parity/parity.h"

namespace ctxc {
namespace {

const std::set<std::string> kIdle = {"grad.pooling_layer.layer_fusion_k_prj.bias",
                                     "grad.pooling_layer.source_mass.ln.bias",
                                     "grad.pooling_layer.source_mass.mass_prj.bias"};

std::string fixture(const std::string& name) {
  return (testing::root() / "tests/fixtures/comprexit" / name).string();
}

void expect_golden(const std::string& name, const std::string& mode,
                   const std::vector<std::string>& overrides = {}) {
  TraceRequest request;
  request.checkpoint = fixture("checkpoint");
  request.mode = mode;
  request.max_new_tokens = 8;
  request.overrides = overrides;
  const TraceOutputs outputs = trace_checkpoint(read_trace_inputs(fixture(name), ""), request);
  testing::expect_equal_trace(outputs, load_tensors(fixture(name)), kIdle);
}

TEST(ComprexitGolden, Training) {
  expect_golden("train.safetensors", "train");
}
TEST(ComprexitGolden, Generation) {
  expect_golden("generate.safetensors", "generate");
}
TEST(ComprexitGolden, MapReduce) {
  expect_golden("map_reduce.safetensors", "generate", {"compressor.map_reduce_segment=32"});
}

TEST(ComprexitGolden, EveryParameterButTheIdleOnesGetsAGradient) {
  TraceRequest request;
  request.checkpoint = fixture("checkpoint");
  request.mode = "train";
  int64_t gradients = 0;
  for (const auto& [name, tensor] :
       trace_checkpoint(read_trace_inputs(fixture("train.safetensors"), ""), request)) {
    if (!name.starts_with("grad.")) continue;
    ++gradients;
    EXPECT_EQ(tensor.abs().max().item<double>() > 1e-5, !kIdle.count(name)) << name;
  }
  EXPECT_EQ(gradients, 24);
}

}  // namespace
}  // namespace ctxc
