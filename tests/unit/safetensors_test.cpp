#include "core/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "core/file.h"
#include "gguf_writer.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::write_bytes;

/// A file with this header and this many bytes of data.
std::string file_of(const std::string& header, size_t data) {
  return testing::GgufWriter::raw<uint64_t>(header.size()) + header + std::string(data, '\1');
}

TensorView view(DType dtype, std::vector<int64_t> shape, std::string_view bytes) {
  return {dtype, std::move(shape), std::as_bytes(std::span(bytes.data(), bytes.size()))};
}

class Safetensors : public ::testing::Test {
 protected:
  void refuses(const std::string& header, size_t data, const std::string& message) {
    const std::string path = write_bytes(dir_ / "bad.safetensors", file_of(header, data));
    expect_error(ErrorKind::kInput, message, [&] { SafetensorsFile file(path); });
  }
  TempDir dir_;
};

TEST_F(Safetensors, WhatIsWrittenIsRead) {
  const std::string path = dir_ / "t.safetensors";
  write_safetensors(path,
                    {{"b", view(DType::kF32, {2}, "12345678")},
                     {"a", view(DType::kU8, {3, 1}, "xyz")},
                     {"none", view(DType::kI64, {0, 4}, "")},
                     {"scalar", view(DType::kBF16, {}, "ab")}},
                    {{"format", "pt"}});
  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().at("a").shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(std::memcmp(file.tensors().at("a").bytes.data(), "xyz", 3), 0);
  EXPECT_EQ(file.tensors().at("none").numel(), 0);
  EXPECT_EQ(file.tensors().at("scalar").numel(), 1);
  EXPECT_EQ(std::memcmp(file.tensors().at("b").bytes.data(), "12345678", 8), 0);
  EXPECT_EQ(name_of(file.tensors().at("b").dtype), "F32");
}

TEST_F(Safetensors, TheHeaderIsAlignedAndKeepsTheOrder) {
  const std::string path = dir_ / "t.safetensors";
  write_safetensors(path, {{"z", view(DType::kU8, {1}, "1")}, {"a", view(DType::kU8, {1}, "2")}});
  const std::string bytes = read_file(path);
  const size_t header = static_cast<unsigned char>(bytes[0]);
  EXPECT_EQ(header % 8, 0u);
  EXPECT_TRUE(bytes.substr(8).starts_with(R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":)"));
  EXPECT_EQ(bytes.substr(8 + header), "12");
}

TEST_F(Safetensors, EveryTruncationIsAnError) {
  const std::string path = dir_ / "t.safetensors", cut = dir_ / "cut.safetensors";
  write_safetensors(path, {{"a", view(DType::kF32, {2}, "12345678")}, {"b", view(DType::kU8, {3}, "xyz")}},
                    {{"k", "v"}});
  const std::string bytes = read_file(path);
  for (size_t length = 0; length < bytes.size(); ++length) {
    write_bytes(cut, bytes.substr(0, length));
    EXPECT_THROW(SafetensorsFile file(cut), Error) << length;
  }
  write_bytes(cut, bytes + "x");
  expect_error(ErrorKind::kInput, "1 bytes after the last tensor belong to none",
               [&] { SafetensorsFile file(cut); });
}

TEST_F(Safetensors, FlippingAnyByteNeverReadsOutside) {
  const std::string path = dir_ / "t.safetensors", broken = dir_ / "broken.safetensors";
  write_safetensors(path, {{"a", view(DType::kF32, {2}, "12345678")}}, {{"k", "v"}});
  const std::string bytes = read_file(path);
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const char flip : {'\x01', '\xff'}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      write_bytes(broken, changed);
      try {
        const SafetensorsFile file(broken);
        for (const auto& [name, tensor] : file.tensors())
          EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(),
                    file.file().bytes().data() + file.file().bytes().size());
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInput);
      }
    }
  }
}

TEST_F(Safetensors, HeaderLengthAgainstTheFile) {
  const auto length = [&](uint64_t value, const std::string& message) {
    const std::string path = write_bytes(dir_ / "bad", testing::GgufWriter::raw(value) + "{}");
    return expect_error(ErrorKind::kInput, message, [&] { SafetensorsFile file(path); });
  };
  EXPECT_EQ(length(3, "header is longer than the file (found 2 bytes after the length, expected 3)"),
            "is the download incomplete?");
  length(UINT64_MAX, "header length is out of range");
  length(UINT64_MAX - 7, "header length is out of range");
  length(100'000'001, "header length is out of range");
  length(0, "not valid JSON");
}

TEST_F(Safetensors, BadHeaders) {
  refuses("[]", 0, "header is not an object");
  refuses("{\"a\":", 0, "header:1:6: not valid JSON");
  refuses("{\"\xff\":1}", 0, "not valid JSON");
  refuses(R"({"a":1})", 0, "expected an object with the key 'dtype'");
  refuses(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a': key 'dtype' is missing");
  refuses(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4,
          "tensor 'a': unknown dtype (found F8_E4M3,");
  refuses(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "key 'shape' is missing");
  refuses(R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "key 'shape' has a wrong value");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4,
          "key 'data_offsets' has a wrong value");
  for (const char* extent : {"-1", "1.5", "\"1\"", "9223372036854775808", "1e3", "null"})
    refuses(fmt::format(R"({{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,4]}}}})", extent), 4,
            "shape: wrong number");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "data_offsets: wrong number");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets outside of the file");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 4,
          "outside of the file (found [4, 8], expected within 4");
  refuses(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
          "(found 4, expected 8 for F32 [2])");
  refuses(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
          "more bytes than fit into 63 bits");
  refuses(R"({"a":{"dtype":"F32","shape":[2305843009213693952,2],"data_offsets":[0,0]}})", 0,
          "more bytes than fit");
  refuses(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
      3, "tensor 'b' overlaps another");
  refuses(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
      2, "overlaps another");
  refuses(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
      3, "gap before tensor 'b' (bytes 1 to 2 belong to no tensor)");
  refuses(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "gap before tensor 'a'");
  refuses(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      1, "key 'a' appears twice");
  refuses(R"({"__metadata__":1})", 0, "__metadata__ is not an object");
  refuses(R"({"__metadata__":{"k":1}})", 0,
          "__metadata__: key 'k' has a wrong value (found 1, expected a string)");
  refuses(R"({"__metadata__":{"k":{"x":{"x":{"x":{"x":{"x":{"x":{}}}}}}}}})", 0, "nested too deeply");
}

TEST_F(Safetensors, Shards) {
  write_safetensors(dir_ / "one.safetensors", {{"a", view(DType::kU8, {1}, "1")}});
  write_safetensors(dir_ / "two.safetensors", {{"b", view(DType::kU8, {1}, "2")}});
  const std::string index = dir_ / "model.safetensors.index.json";
  const auto with = [&](const std::string& map) {
    write_bytes(index, "{\"metadata\": {}, \"weight_map\": " + map + "}");
    return SafetensorsSet(dir_.str());
  };
  const SafetensorsSet set = with(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  EXPECT_EQ(set.files().size(), 2u);
  EXPECT_EQ(set.tensors().size(), 2u);
  EXPECT_EQ(SafetensorsSet(index).tensors().size(), 2u);
  EXPECT_EQ(SafetensorsSet(dir_ / "one.safetensors").tensors().size(), 1u);
  const auto refuses = [&](const std::string& map, const std::string& message) {
    expect_error(ErrorKind::kInput, message, [&] { with(map); });
  };
  refuses(R"({"a": "x.safetensors", "b": "y.safetensors"})",
          "2 of 2 files are missing: x.safetensors, y.safetensors");
  refuses(R"({"a": "two.safetensors"})",
          "tensor 'b' is in two.safetensors, where the index does not place it");
  refuses(R"({"a": "one.safetensors", "c": "one.safetensors"})", "tensors that the files do not hold: c");
  refuses(R"({"a": "../one.safetensors"})", "one.safetensors");
  refuses(R"({"a": "/etc/passwd"})", "passwd");
  refuses(R"({"a": 1})", "weight_map: key 'a' has a wrong value");
  refuses(R"([])", "key 'weight_map' has a wrong value");
}

TEST_F(Safetensors, NothingThere) {
  expect_error(ErrorKind::kInput, "no weights in this folder", [&] { SafetensorsSet set(dir_.str()); });
  expect_error(ErrorKind::kInput, "absent", [&] { SafetensorsSet set(dir_ / "absent"); });
}

TEST_F(Safetensors, TheWriterRefusesWhatItCouldNotRead) {
  const std::string path = dir_ / "t.safetensors";
  const auto refuses = [&](ErrorKind kind, const std::string& message, const auto&... arguments) {
    expect_error(kind, message, [&] { write_safetensors(path, arguments...); });
    EXPECT_FALSE(std::filesystem::exists(path));
  };
  using Tensors = std::vector<std::pair<std::string, TensorView>>;
  refuses(ErrorKind::kInternal, "used twice",
          Tensors{{"a", view(DType::kU8, {1}, "1")}, {"a", view(DType::kU8, {1}, "1")}});
  refuses(ErrorKind::kInternal, "used twice", Tensors{{"__metadata__", view(DType::kU8, {1}, "1")}});
  refuses(ErrorKind::kInternal, "1 bytes do not fit U8 [2]", Tensors{{"a", view(DType::kU8, {2}, "1")}});
  refuses(ErrorKind::kInput, "not valid UTF-8", Tensors{{"\xff", view(DType::kU8, {1}, "1")}});
}

}  // namespace
}  // namespace ctxc
