// Sequence-state files of llama.cpp: every form is read back, and its bytes are those that the format says.
#include "eval/llama_state.h"

#include <cstring>

#include "core/file.h"
#include "eval/memory_export.h"
#include "exported_memory.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using LlamaStateFile = testing::ExportedMemory;

TEST_F(LlamaStateFile, PlaceholdersAreTokens) {
  memory_.info["model"]["vocab_size"] = 100;
  save_memory(in_, memory_);
  ExportRequest asked = request("state.bin");
  for (const int64_t id : {int64_t{-1}, int64_t{-2}, int64_t{100}, int64_t{999999999}, int64_t{1} << 31,
                           (int64_t{1} << 32) + 5}) {
    asked.llama_placeholder = id;
    expect_error(ErrorKind::kUsage,
                 fmt::format("--llama-placeholder: is no token (found {}, expected 0 to 99)", id),
                 [&] { run_export("llamacpp-state", asked, true); });
  }
  asked.llama_placeholder = 99;
  run_export("llamacpp-state", asked, true);
  EXPECT_EQ(read_llama_state(asked.out, 3, 4).form.placeholder, 99);
}

/// A state file whose list of ids is another one.
void write_with_ids(const std::string& path, const std::string& bytes, const std::vector<int32_t>& ids) {
  const uint32_t count = static_cast<uint32_t>(ids.size());
  std::string changed = bytes.substr(0, 8);
  changed.append(reinterpret_cast<const char*>(&count), 4);
  changed.append(reinterpret_cast<const char*>(ids.data()), 4 * ids.size());
  write_file_atomic(path, changed + bytes.substr(12 + 4 * 5));
}

TEST_F(LlamaStateFile, LlamaStateLikeAServersOwn) {
  ExportRequest own = request("own.bin");
  run_export("llamacpp-state", own, true);
  const std::string bytes = read_file(own.out);
  write_with_ids(own.out, bytes, {-1, 1, 5, 11, 12, 13, 14, 15, 0});
  EXPECT_EQ(read_llama_state(own.out, 3, 4).tokens, std::vector<int32_t>({11, 12, 13, 14, 15}));
  ExportRequest asked = request("state.bin");
  asked.llama_state_like = own.out;
  run_export("llamacpp-state", asked, true);
  EXPECT_EQ(read_llama_state(asked.out, 3, 4).tokens, std::vector<int32_t>(5, 11));
  for (const auto& [part, ids] : std::vector<std::pair<std::string, std::vector<int32_t>>>{
           {"version of the wrapped list of ids (found 2, expected 1)", {-1, 2, 1, 7, 0}},
           {"ids in the wrapped list (found 6, expected 5)", {-1, 1, 6, 1, 2, 3, 4, 5, 0}},
           {"media pieces beside the ids (found 1, expected 0)", {-1, 1, 1, 7, 1}},
           {"entries of the wrapped list of ids (found 2, expected 4)", {-1, 1}}}) {
    write_with_ids(own.out, bytes, ids);
    expect_error(ErrorKind::kInput, part, [&] { read_llama_state(own.out, 3, 4); });
  }
  write_with_ids(own.out, bytes, {-7, 1, 1});
  expect_error(ErrorKind::kInput, "own.bin: first id: is no token (found -7",
               [&] { run_export("llamacpp-state", asked, true); });
}

TEST_F(LlamaStateFile, LlamaStateForAServerOfSeveralSlots) {
  ExportRequest own = request("own.bin");
  run_export("llamacpp-state", own, true);
  const std::string bytes = read_file(own.out);
  const size_t before = 12 + 4 * 5;  // the header and five ids
  const auto words = [](std::vector<uint32_t> values) {
    return std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size());
  };
  const std::string head = bytes.substr(0, before), rows = bytes.substr(before + 4);
  write_file_atomic(own.out, head + words({3, 0}) + rows + words({0}));  // as its second slot saves them
  EXPECT_EQ(read_llama_state(own.out, 3, 4).form.streams, 3);
  ExportRequest asked = request("state.bin");
  asked.llama_state_like = own.out;
  run_export("llamacpp-state", asked, true);
  EXPECT_EQ(read_file(asked.out), head + words({3}) + rows + words({0, 0}));
  for (const auto& [part, changed] : std::vector<std::pair<std::string, std::string>>{
           {"streams with rows (found 0, expected 1)", words({2, 0, 0})},
           {"streams with rows (found 2, expected 1)", words({2}) + rows + rows},
           {"streams (found 257, expected 1)", words({257}) + rows},
           {"ends early", words({2}) + rows}}) {
    write_file_atomic(own.out, head + changed);
    expect_error(ErrorKind::kInput, part, [&] { read_llama_state(own.out, 3, 4); });
  }
}

TEST_F(LlamaStateFile, LlamaStateInEveryForm) {
  for (int64_t version : {2, 3, 4})
    for (const char* attention : {"on", "off"})
      for (const char* dtype : {"float32", "bfloat16", "float16"}) {
        ExportRequest asked = request("state.bin");
        asked.llama_state_version = version;
        asked.llama_flash_attention = attention;
        asked.dtype = dtype;
        asked.llama_placeholder = 9;
        run_export("llamacpp-state", asked, true);
        const LlamaState state = read_llama_state(asked.out, 3, 4);
        EXPECT_EQ(state.form.version, version);
        EXPECT_EQ(state.form.transposed, std::string(attention) == "off");
        EXPECT_EQ(state.tokens, std::vector<int32_t>(5, 9));
        EXPECT_TRUE(at::equal(state.k_LGNE, memory_.k_LGNE.to(float_type(dtype))));
        EXPECT_TRUE(at::equal(state.v_LGNE, memory_.v_LGNE.to(float_type(dtype))));
      }
}

TEST_F(LlamaStateFile, LlamaStateBytes) {
  ExportRequest asked = request("state.bin");
  asked.dtype = "float32";
  run_export("llamacpp-state", asked, true);
  const std::string bytes = read_file(asked.out);
  const auto word = [&](size_t offset) {
    uint32_t value;
    std::memcpy(&value, bytes.data() + offset, 4);
    return value;
  };
  EXPECT_EQ(bytes.substr(0, 4), "qsgg");
  EXPECT_EQ(word(4), 4u);
  EXPECT_EQ(word(8), 5u);        // tokens
  EXPECT_EQ(word(12 + 20), 1u);  // streams
  EXPECT_EQ(word(12 + 24), 5u);  // cells
  EXPECT_EQ(word(40 + 12), 1u);  // position of the second cell
  const size_t layers = 40 + 5 * 12 + 4;
  EXPECT_EQ(word(layers), 2u);
  // First key row: channels interleaved, x0 x2 x1 x3 of the first head.
  float values[4];
  std::memcpy(values, bytes.data() + layers + 4 + 8 + 4 + 8, sizeof values);
  const float* key = memory_.k_LGNE.const_data_ptr<float>();
  EXPECT_EQ(values[0], key[0]);
  EXPECT_EQ(values[1], key[2]);
  EXPECT_EQ(values[2], key[1]);
  EXPECT_EQ(values[3], key[3]);
}

TEST_F(LlamaStateFile, LlamaStateLikeTheUsersOwn) {
  ExportRequest own = request("own.bin");
  own.llama_state_version = 3;
  own.llama_flash_attention = "off";
  own.dtype = "bfloat16";
  own.llama_placeholder = 11;
  run_export("llamacpp-state", own, true);
  ExportRequest asked = request("state.bin");
  asked.llama_state_like = own.out;
  run_export("llamacpp-state", asked, true);
  EXPECT_EQ(read_file(asked.out), read_file(own.out));
  asked.llama_state_version = 4;
  expect_error(ErrorKind::kUsage, "has version 3", [&] { run_export("llamacpp-state", asked, true); });
  asked.llama_state_version = 5;
  asked.llama_state_like = "";
  expect_error(ErrorKind::kUsage, "unknown version (found 5",
               [&] { run_export("llamacpp-state", asked, true); });
  const std::string bytes = read_file(own.out);
  write_file_atomic(own.out, std::string_view(bytes).substr(0, bytes.size() - 3));
  expect_error(ErrorKind::kInput, "ends early", [&] { read_llama_state(own.out, 3, 4); });
  write_file_atomic(own.out, bytes + "x");
  expect_error(ErrorKind::kInput, "bytes after the end", [&] { read_llama_state(own.out, 3, 4); });
  write_file_atomic(own.out, bytes);
  expect_error(ErrorKind::kInput, "bytes of a key row (found 24, expected 32)",
               [&] { read_llama_state(own.out, 4, 4); });
  write_file_atomic(own.out, "ggml" + bytes);
  expect_error(ErrorKind::kInput, "magic number (found 1819109223, expected 1734833009)",
               [&] { read_llama_state(own.out, 3, 4); });
  // The width of a value stands behind positions, counts and keys, and the type of the values.
  std::string wide = bytes;
  wide[12 + 5 * 4 + 8 + 5 * 12 + 8 + 2 * (4 + 8 + 5 * 12 * 2) + 4] = 7;
  write_file_atomic(own.out, wide);
  expect_error(ErrorKind::kInput, "bytes of a value (found 7, expected 2)",
               [&] { read_llama_state(own.out, 3, 4); });
}

}  // namespace
}  // namespace ctxc
