#include "core/gguf.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/file.h"
#include "gguf_writer.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::GgufWriter;
using testing::TempDir;
using testing::write_bytes;

std::string blocks_file() {
  return testing::root() / "tests/fixtures/gguf/blocks.gguf";
}

std::vector<float> values_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.numel()));
  dequantize(tensor, values);
  return values;
}

TEST(Gguf, BlocksEqualThoseOfThePythonPackage) {
  const GgufFile file(blocks_file());
  for (const char* name : {"F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}) {
    const GgufTensor& tensor = file.tensors().at(name);
    EXPECT_EQ(name_of(tensor.type), name);
    const GgufTensor& golden = file.tensors().at(std::string(name) + ".expected");
    ASSERT_EQ(tensor.shape, golden.shape);
    const auto found = values_of(tensor), expected = values_of(golden);
    float largest = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i], expected[i]) << name << " " << i;
      largest = std::max(largest, std::abs(found[i]));
    }
    EXPECT_GT(largest, 0) << name;
  }
}

TEST(Gguf, HalvesOfEveryKind) {
  const auto half = [](uint16_t bits) {
    const std::string bytes = GgufWriter::raw(bits);
    const GgufTensor tensor{GgufType::kF16, {1}, std::as_bytes(std::span(bytes.data(), 2))};
    return values_of(tensor)[0];
  };
  EXPECT_EQ(half(0x0000), 0.0f);
  EXPECT_TRUE(std::signbit(half(0x8000)));
  EXPECT_EQ(half(0x0001), 0x1.0p-24f);
  EXPECT_EQ(half(0x83FF), -0x1.ff8p-15f);
  EXPECT_EQ(half(0x0400), 0x1.0p-14f);
  EXPECT_EQ(half(0x3C00), 1.0f);
  EXPECT_EQ(half(0xFBFF), -65504.0f);
  EXPECT_EQ(half(0x7C00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half(0x7E00)));
}

TEST(Gguf, MetadataOfEveryType) {
  const GgufFile file(blocks_file());
  EXPECT_EQ(file.strings("some.strings"), (std::vector<std::string>{"a", "é", ""}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(file.metadata().at("some.integers").value),
            (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(std::get<std::vector<double>>(file.metadata().at("some.numbers").value),
            (std::vector<double>{0.5, 1.5}));
  EXPECT_EQ(std::get<std::vector<int64_t>>(file.metadata().at("some.booleans").value),
            (std::vector<int64_t>{1, 0}));
  EXPECT_TRUE(std::get<bool>(file.metadata().at("a.boolean").value));
  EXPECT_EQ(file.integer("an.u8"), 200);
  EXPECT_EQ(file.integer("an.i8"), -100);
  EXPECT_EQ(file.integer("an.u16"), 60000);
  EXPECT_EQ(file.integer("an.i16"), -30000);
  EXPECT_EQ(file.integer("an.u32"), 4000000000);
  EXPECT_EQ(file.integer("an.i32"), -2000000000);
  EXPECT_EQ(file.integer("an.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(file.number("an.u64"), 0x1.0p63);
  EXPECT_EQ(file.number("an.i8"), -100);
  EXPECT_EQ(file.number("an.f32"), 0.25);
  EXPECT_EQ(file.number("an.f64"), 0.1);
  EXPECT_EQ(file.string("general.architecture"), "test");
  EXPECT_TRUE(file.contains("an.u8"));
  expect_error(ErrorKind::kInput,
               "key 'an.u64' has a wrong type (found an unsigned integer, expected an integer below 2^63)",
               [&] { file.integer("an.u64"); });
  expect_error(ErrorKind::kInput, "(found a number, expected an integer", [&] { file.integer("an.f32"); });
  expect_error(ErrorKind::kInput, "(found a string, expected a number)",
               [&] { file.number("general.architecture"); });
  expect_error(ErrorKind::kInput, "(found a boolean, expected a string)", [&] { file.string("a.boolean"); });
  expect_error(ErrorKind::kInput, "(found a list of numbers, expected a list of strings)",
               [&] { file.strings("some.numbers"); });
  expect_error(ErrorKind::kInput, "blocks.gguf: key 'x' is missing (expected an integer)",
               [&] { file.integer("x"); });
}

GgufWriter small() {
  GgufWriter writer;
  writer.string("general.name", "x").integer("n", 3);
  writer.key("list", GgufWriter::kArray,
             GgufWriter::raw<uint32_t>(8) + GgufWriter::raw<uint64_t>(2) + GgufWriter::text("a") +
                 GgufWriter::text("bc"));
  return writer.tensor("a", {2, 3}, 0, std::string(24, '\1')).tensor("b", {32}, 8, std::string(34, '\2'));
}

TEST(Gguf, ShapesAreOutermostFirstAndVersion2IsRead) {
  TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer = small();
    writer.version = version;
    const GgufFile file(writer.save(dir / "m.gguf"));
    EXPECT_EQ(file.tensors().at("a").shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(file.tensors().at("b").bytes.size(), 34u);
    EXPECT_EQ(file.strings("list"), (std::vector<std::string>{"a", "bc"}));
  }
}

TEST(Gguf, EveryTruncationIsAnError) {
  TempDir dir;
  const std::string bytes = small().bytes(), path = dir / "cut.gguf";
  for (size_t length = 0; length < bytes.size(); ++length) {
    write_bytes(path, bytes.substr(0, length));
    EXPECT_THROW(GgufFile file(path), Error) << length;
  }
  write_bytes(path, bytes);
  EXPECT_NO_THROW(GgufFile file(path));
}

TEST(Gguf, FlippingAnyByteNeverReadsOutside) {
  TempDir dir;
  const std::string bytes = small().bytes(), path = dir / "broken.gguf";
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ (i % 2 == 0 ? '\xff' : '\x01'));
    write_bytes(path, changed);
    try {
      const GgufFile file(path);
      for (const auto& [name, tensor] : file.tensors()) values_of(tensor);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
    }
  }
}

class GgufBad : public ::testing::Test {
 protected:
  std::string refuses(const GgufWriter& writer, const std::string& message) {
    const std::string path = writer.save(dir_ / "bad.gguf");
    return expect_error(ErrorKind::kInput, message, [&] { GgufFile file(path); });
  }
  TempDir dir_;
};

TEST_F(GgufBad, HeadersAndCounts) {
  const std::string path = write_bytes(dir_ / "x", "GGML3333");
  expect_error(ErrorKind::kInput, "not a GGUF file", [&] { GgufFile file(path); });
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    GgufWriter writer = small();
    writer.version = version;
    refuses(writer, "GGUF version is not supported");
  }
  GgufWriter keys = small(), tensors = small();
  keys.key_count = UINT64_MAX;
  EXPECT_EQ(refuses(keys, "the metadata cannot hold 18446744073709551615 items"),
            "is the download incomplete?");
  tensors.tensor_count = uint64_t{1} << 60;
  refuses(tensors, "the tensor table cannot hold");
}

TEST_F(GgufBad, Metadata) {
  const auto raw = [](auto value) { return GgufWriter::raw(value); };
  refuses(GgufWriter().integer("a", 1).integer("a", 1), "key 'a' appears twice");
  refuses(GgufWriter().key("a", 13, "12345678"), "key 'a': unknown value type (found 13");
  refuses(GgufWriter().key("a", GgufWriter::kBool, "\2"), "wrong boolean (found 2");
  refuses(GgufWriter().key("a", GgufWriter::kString, raw(UINT64_MAX)), "the file ends too early");
  refuses(GgufWriter().key("a", GgufWriter::kArray, raw(uint32_t{9}) + raw(uint64_t{1})),
          "arrays of type 9 are not supported");
  refuses(GgufWriter().key("a", GgufWriter::kArray, raw(uint32_t{99}) + raw(uint64_t{1})),
          "arrays of type 99 are not");
  for (const uint32_t type : {0u, 4u, 8u, 10u, 12u})
    refuses(GgufWriter().key("a", GgufWriter::kArray, raw(type) + raw(uint64_t{1} << 61)),
            "key 'a' cannot hold");
  refuses(GgufWriter().key("a", GgufWriter::kArray, raw(uint32_t{10}) + raw(uint64_t{1}) + raw(UINT64_MAX)),
          "integer is too large");
  refuses(GgufWriter().key("a", GgufWriter::kArray, raw(uint32_t{7}) + raw(uint64_t{1}) + "\3"),
          "wrong boolean");
  for (const uint32_t alignment : {0u, 3u, 1u << 30})
    refuses(GgufWriter().integer("general.alignment", alignment), "general.alignment is wrong");
}

TEST_F(GgufBad, TensorTable) {
  const std::string data(64, '\0');
  refuses(GgufWriter().tensor("a", {8}, 2, data),
          "tensor 'a': row length does not fit Q4_0 (found 8, expected a multiple of 32)");
  refuses(GgufWriter().tensor("a", {8}, 10, data), "tensor 'a': unknown block type (found ggml type 10");
  refuses(GgufWriter().tensor("a", {1, 1, 1, 1, 1}, 0, data), "too many dimensions (found 5");
  refuses(GgufWriter().tensor("a", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, data),
          "more values than fit into 63 bits");
  refuses(GgufWriter().tensor("a", {UINT64_MAX}, 0, data), "more values than fit");
  refuses(GgufWriter().tensor("a", {uint64_t{1} << 62}, 0, data), "more bytes than fit into 63 bits");
  refuses(GgufWriter().tensor("a", {17}, 0, data),
          "lies outside of the file (found 64 bytes of data, expected 0 + 68)");
  refuses(GgufWriter().tensor_at("a", {4}, 0, UINT64_MAX - 31).data(data), "lies outside of the file");
  refuses(GgufWriter().tensor_at("a", {4}, 0, 4).data(data), "offset 4 is not a multiple of 32");
  refuses(GgufWriter().tensor_at("a", {9}, 0, 0).tensor_at("b", {4}, 0, 32).data(data),
          "tensor 'b': overlaps another");
  refuses(GgufWriter().tensor_at("a", {8}, 0, 0).tensor_at("a", {8}, 0, 32).data(data),
          "tensor 'a' appears twice");
}

TEST(Gguf, IsRecognisedByContent) {
  TempDir dir;
  EXPECT_TRUE(is_gguf(blocks_file()));
  EXPECT_FALSE(is_gguf(write_bytes(dir / "a.gguf", "GGU")));
  EXPECT_FALSE(is_gguf(dir.str()));
  EXPECT_FALSE(is_gguf(dir / "absent"));
}

TEST(Gguf, RoomForTheValuesIsChecked) {
  const GgufFile file(blocks_file());
  std::vector<float> room(3);
  expect_error(ErrorKind::kInternal, "room for 3 values",
               [&] { dequantize(file.tensors().at("Q8_0"), room); });
}

}  // namespace
}  // namespace ctxc
