// What a memory under construction is asked: pieces, probes, batches, segments.
#include <map>
#include <set>

#include "testing.h"
#include "train/compile_inputs.h"

namespace ctxc {
namespace {

TEST(CompileItems, PiecesCoverEveryTokenOnceAndNoProbeStartsOne) {
  for (int64_t length : {16, 40, 256, 700}) {
    const std::vector<Piece> probes = draw_probes(length, 8, 3);
    ASSERT_FALSE(probes.empty());
    std::set<int64_t> starts;
    for (const Piece& probe : probes) {
      EXPECT_GE(probe.begin, kQuoted);
      EXPECT_LE(probe.end, length);
      EXPECT_EQ(probe.end - probe.begin, std::min<int64_t>(32, length / 4));
      EXPECT_TRUE(starts.insert(probe.begin).second);
    }
    const auto phases = cut_pieces(length, 64, 3, probes);
    EXPECT_LE(phases.size(), 16u);
    for (const std::vector<Piece>& pieces : phases) {
      int64_t next = 0;
      for (const Piece& piece : pieces) {
        EXPECT_EQ(piece.begin, next);
        EXPECT_EQ(starts.count(piece.begin), 0u);
        next = piece.end;
      }
      EXPECT_EQ(next, length);
    }
  }
  EXPECT_EQ(cut_pieces(2500, 0, 3, {}),
            (std::vector<std::vector<Piece>>{{{0, 1024}, {1024, 2048}, {2048, 2500}}}));
  // A probe at a cut of whole contexts moves the cuts; below 1024 tokens there is none.
  EXPECT_EQ(cut_pieces(2500, 0, 3, {{1024, 1056}, {2047, 2079}}),
            (std::vector<std::vector<Piece>>{{{0, 1022}, {1022, 2046}, {2046, 2500}}}));
  EXPECT_EQ(cut_pieces(1024, 0, 3, {{8, 40}, {900, 932}}), (std::vector<std::vector<Piece>>{{{0, 1024}}}));
}

TEST(CompileItems, BatchesHoldNoItemTwice) {
  int64_t epochs = 0;
  ItemStream stream([&](int64_t epoch) {
    ++epochs;
    return epoch % 2 ? std::vector<int64_t>{0, 1, 2} : std::vector<int64_t>{2, 1, 0};
  });
  std::map<int64_t, int> seen;
  for (int i = 0; i < 9; ++i) {
    const std::vector<int64_t> batch = stream.take(2);
    ASSERT_EQ(batch.size(), 2u);
    EXPECT_NE(batch[0], batch[1]);
    for (int64_t item : batch) ++seen[item];
  }
  EXPECT_EQ(epochs, 6);
  for (const auto& [item, count] : seen) EXPECT_EQ(count, 6) << item;
  EXPECT_EQ(stream.take(5).size(), 3u);  // there are no more
}

TEST(CompileItems, SegmentsAreAsEqualAsCanBe) {
  const std::vector<Tokens> parts = cut_segments(Tokens(10, 7), 4);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].size() + parts[1].size() + parts[2].size(), 10u);
  for (const Tokens& part : parts) EXPECT_LE(part.size(), 4u);
  EXPECT_EQ(cut_segments(Tokens(4, 7), 4).size(), 1u);
}

}  // namespace
}  // namespace ctxc
