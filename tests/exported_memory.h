// A memory of kind `kv` on disk, and requests to export it.
#pragma once
#include <gtest/gtest.h>

#include "eval/exporter.h"
#include "model/memory_artifact.h"
#include "testing.h"
#include "tiny_llama.h"

namespace ctxc::testing {

/// Two layers, 3 groups, 5 rows (2 header), heads of 4.
inline MemoryArtifact kv_artifact() {
  MemoryArtifact memory;
  memory.kind = "kv";
  memory.k_LGNE = random_tensor({2, 3, 5, 4}, 1);
  memory.v_LGNE = random_tensor({2, 3, 5, 4}, 2);
  memory.info = OrderedJson::parse(
      R"({"format_version": 1, "kind": "kv", "method": "test", "n_slots": 3, "n_header": 2, "header_token_ids": [0, 5],
    "positions": {"first": 0, "count": 5, "rotated": true}, "resume_text": "\n\n", "ratio": 8.0,
    "context": {"sha256": null, "n_tokens": 24, "truncated": false}, "metrics": {"heldout_kl": 0.125, "failed": []},
    "model": {"name_or_path": "base", "architecture": "LlamaForCausalLM", "num_hidden_layers": 2,
              "num_key_value_heads": 3, "head_dim": 4, "hidden_size": 24, "rope_theta": 10000.0, "rope_scaling": null}})");
  return memory;
}

class ExportedMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_ = kv_artifact();
    in_ = (folder_ / "m.safetensors").string();
    save_memory(in_, memory_);
  }
  ExportRequest request(const std::string& out) const {
    ExportRequest request;
    request.in = in_;
    request.out = (folder_ / out).string();
    return request;
  }
  void write(const std::string& target, const std::string& out) const {
    run_export(target, request(out), true);
  }

  TempDir folder_;
  MemoryArtifact memory_;
  std::string in_;
};

}  // namespace ctxc::testing
