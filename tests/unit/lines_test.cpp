#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include "core/error.h"
#include "core/file.h"
#include "testing.h"

namespace ctxc {
namespace {

using Lines = std::vector<std::string>;

std::string gzip(const std::string& text) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class LinesTest : public ::testing::Test {
 protected:
  Lines lines_of(const std::string& content) {
    write_file_atomic(path(), content);
    Lines lines;
    for_each_line(path(), [&](std::string_view line, int64_t number) {
      lines.emplace_back(line);
      EXPECT_EQ(number, static_cast<int64_t>(lines.size()));
    });
    return lines;
  }
  std::string error_of(const std::string& content) {
    try {
      lines_of(content);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_TRUE(std::string(error.what()).starts_with(path())) << error.what();
      return error.what();
    }
    return "no error";
  }
  std::string path() const { return folder_ / "input"; }
  testing::TempDir folder_;
};

TEST_F(LinesTest, Plain) {
  EXPECT_EQ(lines_of("a\nb\n"), (Lines{"a", "b"}));
  EXPECT_EQ(lines_of("a\nb"), (Lines{"a", "b"}));
  EXPECT_EQ(lines_of("a\r\n\r\nb\r"), (Lines{"a", "", "b"}));
  EXPECT_EQ(lines_of("\n"), Lines{""});
  EXPECT_EQ(lines_of(""), Lines{});
  EXPECT_EQ(lines_of("\x1f"), Lines{"\x1f"});
  EXPECT_EQ(lines_of(std::string("a\0b\n", 4)), Lines{std::string("a\0b", 3)});
}

TEST_F(LinesTest, LinesLongerThanAChunkAndAcrossChunks) {
  Lines expected;
  std::string content;
  for (size_t length : {700'000, 1, 262'143, 262'144, 0, 300'000}) {
    expected.emplace_back(length, static_cast<char>('a' + expected.size()));
    content += expected.back() + "\n";
  }
  EXPECT_EQ(lines_of(content), expected);
  EXPECT_EQ(lines_of(gzip(content)), expected);
}

TEST_F(LinesTest, GzipIsRecognisedByContent) {
  EXPECT_EQ(lines_of(gzip("a\r\nb\nc")), (Lines{"a", "b", "c"}));
  EXPECT_EQ(lines_of(gzip("")), Lines{});
}

TEST_F(LinesTest, GzipMembersFollowOneAnotherInsideALine) {
  EXPECT_EQ(lines_of(gzip("a\nb") + gzip("c\nd\n") + gzip("")), (Lines{"a", "bc", "d"}));
  EXPECT_EQ(lines_of(gzip("a\n") + std::string(1000, '\0')), Lines{"a"});
}

TEST_F(LinesTest, WhatInflatesALotComesThrough) {
  std::string content;
  for (int i = 0; i < 20'000; ++i) content += std::string(1000, 'x') + "\n";
  int64_t count = 0;
  write_file_atomic(path(), gzip(content));
  for_each_line(path(), [&](std::string_view line, int64_t) { count += line.size() == 1000; });
  EXPECT_EQ(count, 20'000);
}

TEST_F(LinesTest, BrokenGzipIsAnError) {
  std::string noise;
  for (uint32_t i = 0, x = 1; i < 400'000; ++i, x = x * 1664525 + 1013904223)
    noise += static_cast<char>(x >> 24);
  const std::string good = gzip(noise);
  for (size_t size : {size_t{2}, size_t{10}, size_t{300}, good.size() / 2, good.size() - 1})
    EXPECT_NE(error_of(good.substr(0, size)).find("broken gzip stream: it ends too early"), std::string::npos)
        << size;
  std::string wrong_sum = good;
  wrong_sum[wrong_sum.size() - 6] ^= 1;
  EXPECT_NE(error_of(wrong_sum).find("broken gzip stream: incorrect data check"), std::string::npos);
  std::string wrong_method = good;
  wrong_method[2] = 7;
  EXPECT_NE(error_of(wrong_method).find("broken gzip stream: unknown compression method"), std::string::npos);
  EXPECT_NE(error_of(good + "more").find("other data follows its end"), std::string::npos);
  EXPECT_NE(error_of(good + std::string(3, '\0') + good).find("other data follows its end"),
            std::string::npos);
}

TEST_F(LinesTest, MissingFilesAndFoldersAreErrors) {
  const auto nothing = [](std::string_view, int64_t) {};
  EXPECT_THROW(for_each_line(folder_ / "absent", nothing), Error);
  EXPECT_THROW(for_each_line(folder_.str(), nothing), Error);
}

TEST_F(LinesTest, AnErrorOfTheCallerPasses) {
  write_file_atomic(path(), gzip("a\nb\n"));
  EXPECT_THROW(for_each_line(path(),
                             [](std::string_view, int64_t number) {
                               if (number == 2) throw std::logic_error("stop");
                             }),
               std::logic_error);
}

TEST_F(LinesTest, DashIsStandardInputEvenInSmallPieces) {
  const std::string content = gzip("one\ntwo\n");
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int saved = dup(STDIN_FILENO);
  dup2(ends[0], STDIN_FILENO);
  close(ends[0]);
  if (fork() == 0) {
    for (char byte : content) {
      if (write(ends[1], &byte, 1) != 1) _exit(1);
      usleep(1000);
    }
    _exit(0);
  }
  close(ends[1]);
  Lines lines;
  for_each_line("-", [&](std::string_view line, int64_t) { lines.emplace_back(line); });
  dup2(saved, STDIN_FILENO);
  close(saved);
  EXPECT_EQ(lines, (Lines{"one", "two"}));
}

}  // namespace
}  // namespace ctxc
