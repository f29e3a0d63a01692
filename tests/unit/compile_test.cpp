// The loop around a per-document method: items, measurements, gates, segments, artifacts, bad inputs,
// resuming.
#include <filesystem>
#include <set>

#include "core/stop.h"
#include "data_helpers.h"
#include "model/generate.h"
#include "model/memory_edit.h"
#include "testing.h"
#include "throws.h"
#include "tiny_llama.h"
#include "train/compile_run.h"
#include "train/context_compiler.h"
#include "train/trainer.h"
#include "train_runs.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

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

constexpr const char* kText =
    "Ada was born in Paris in the year 1912 and works as a baker. Her brother Tom lives in Rome and plays "
    "the violin. "
    "They meet every summer in a small house by the sea, where their friend Eva writes letters.";

class Compile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string bank;
    for (int i = 0; i < 12; ++i) bank += fmt::format("Question: what is {} plus {}?\n", i, i + 2);
    testing::write_text(folder_ / "bank.txt", bank);
    testing::write_text(folder_ / "a.txt", kText);
  }
  RunConfig config(const std::vector<std::string>& overrides = {},
                   const std::string& contexts = "a.txt") const {
    const std::string base = (testing::root() / "models/tiny-facts").string();
    std::vector<std::string> all = {"backbone.path=" + base,
                                    "run.dir=" + (folder_ / "run").string(),
                                    "data.root=" + folder_.str(),
                                    "data.contexts=[" + contexts + "]",
                                    "compressor.preset=small",
                                    "compressor.ratio=8",
                                    "compressor.lora.rank=4",
                                    "compressor.storage=float32",
                                    "compressor.recon.chunk=32",
                                    "queries.path=" + (folder_ / "bank.txt").string(),
                                    "queries.count=8",
                                    "queries.held_out=3",
                                    "queries.max_new=6",
                                    "train.steps=12",
                                    "train.valid_every=6"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return resolve_run_config(Yaml::parse("compressor: {name: lcc}", "test"), all);
  }
  TempDir folder_;
};

TEST_F(Compile, PresetsFillInWhatTheConfigurationLeavesOut) {
  const RunConfig small = config();
  EXPECT_EQ(small.train.batch, 4);
  EXPECT_EQ(small.train.steps, 12);
  EXPECT_EQ(small.train.betas, (std::vector<double>{0.9, 0.95}));
  EXPECT_EQ(small.prompt.head, "auto");
  const RunConfig paper = config({"compressor.preset=paper", "train.steps=0"});
  EXPECT_EQ(paper.train.epochs, 45);
  EXPECT_EQ(paper.train.lr, 2e-5);
  EXPECT_EQ(paper.queries.continuations, 0);
  EXPECT_EQ(small.queries.continuations, 8);
  EXPECT_EQ(config({"compressor.preset=default"}).queries.continuations, 16);
  EXPECT_EQ(config({"train.batch=6"}).train.batch, 6);
  EXPECT_TRUE(is_per_document(small));
}

TEST_F(Compile, ContinuationsAreWhatTheBaseGoesOnWith) {
  const RunConfig settings = config();
  const auto backbone = Backbone::load(settings.backbone.path);
  const Tokenizer tokenizer = Tokenizer::load(settings.tokenizer_path());
  const Prompt prompt(settings.prompt, tokenizer);
  const Document document = read_document(*backbone, prompt.head_ids(), prompt.context_ids(kText));
  const QueryDraw queries{{"one?", "two?"}, {"three?"}};
  CompileItems items(*backbone, prompt, document, {}, queries, {.seed = 0, .max_new = 5, .continuations = 3});
  ASSERT_EQ(items.train_queries().size(), 5u);
  ASSERT_EQ(items.held_out().size(), 1u);
  items.answer(/*all=*/true, [](int64_t, int64_t) {});
  // What decoding of the bare text makes likeliest, end tokens aside, and how it goes on from there.
  const Memory bare = kv_memory(document.first_rows(document.prefix + document.length() - 1));
  GenerateOptions options;
  options.want_step_logits = true;
  options.max_new_tokens = 1;
  Tensor logits_V =
      generate(*backbone, bare, {0}, {{document.context.back()}}, options).step_logits_BTV[0][0].clone();
  for (TokenId token = 0; token < tokenizer.vocab_size(); ++token)
    if (tokenizer.is_special(token)) logits_V[token] = -1e9;
  const ReadItem& likeliest = items.item(items.train_queries()[2]);
  ASSERT_EQ(likeliest.prompt.size(), 1u);
  EXPECT_EQ(likeliest.prompt[0], logits_V.argmax().item<int64_t>());
  options.max_new_tokens = 5;
  options.eos = ending_ids(*backbone, prompt);
  const Tokens read = {document.context.back(), likeliest.prompt[0]};
  EXPECT_EQ(likeliest.target, generate(*backbone, bare, {0}, {read}, options).tokens[0]);
  std::set<TokenId> first;
  for (size_t i = 2; i < 5; ++i) first.insert(items.item(items.train_queries()[i]).prompt[0]);
  EXPECT_EQ(first.size(), 3u);
  // The teacher has rows for them like for any query.
  EXPECT_EQ(items.taught(items.train_queries()[2]).teacher_ND.size(0),
            static_cast<int64_t>(likeliest.target.size()));
}

TEST_F(Compile, ATextBecomesAMemoryThatReadsAsMeasured) {
  const RunConfig settings = config();
  ContextCompiler compiler(settings);
  std::vector<CompileStep> steps;
  std::vector<CompileCheck> checks;
  CompileWatcher watcher;
  watcher.step = [&](const CompileStep& step, int64_t of) {
    EXPECT_EQ(of, 12);
    steps.push_back(step);
  };
  watcher.check = [&](const CompileCheck& check) { checks.push_back(check); };
  const auto artifact = compiler.compile({"a", kText}, watcher);
  ASSERT_TRUE(artifact);
  EXPECT_EQ(steps.size(), 12u);
  EXPECT_EQ(checks.size(), 3u);
  EXPECT_EQ(artifact->kind, "kv");
  EXPECT_EQ(artifact->header(), 1);
  const OrderedJson& info = artifact->info;
  EXPECT_EQ(info["n_slots"], compiler.slots_for(info["context"]["n_tokens"].get<int64_t>()));
  EXPECT_EQ(info["prompt"]["head"], "bos");
  const OrderedJson& metrics = info["metrics"];
  EXPECT_LT(metrics["probe_nll"].get<double>(), metrics["untrained"]["probe_nll"].get<double>());
  EXPECT_EQ(metrics["full"]["heldout_kl"].get<double>() < 1e-5, true);
  EXPECT_GT(metrics["none"]["heldout_kl"].get<double>(), 1e-4);
  compiler.save((folder_ / "m.safetensors").string(), *artifact);
  EXPECT_TRUE(at::equal(load_memory((folder_ / "m.safetensors").string()).k_LGNE, artifact->k_LGNE));
  // What was written is checked against what was measured.
  MemoryArtifact other = *artifact;
  other.k_LGNE = other.k_LGNE * 1.02;
  expect_error(ErrorKind::kInternal, "reads differently",
               [&] { compiler.save((folder_ / "n.safetensors").string(), other); });
}

TEST_F(Compile, SameSeedSameMemory) {
  const RunConfig settings = config({"train.steps=3", "train.valid_every=0"});
  const auto compiled = [&] { return *ContextCompiler(settings).compile({"a", kText}, {}); };
  const MemoryArtifact first = compiled(), second = compiled();
  EXPECT_TRUE(at::equal(first.k_LGNE, second.k_LGNE));
  EXPECT_TRUE(at::equal(first.v_LGNE, second.v_LGNE));
}

TEST_F(Compile, AllButOneTokenOfTheTeacherIsTheWholeTeacher) {
  // Steps from stored top tokens are those from hidden states once nothing is merged away, and others before.
  const auto compiled = [&](const std::vector<std::string>& keys) {
    std::vector<std::string> all = {"train.steps=3", "train.valid_every=0", "compressor.recon.loss=kl"};
    all.insert(all.end(), keys.begin(), keys.end());
    const RunConfig settings = config(all);
    return ContextCompiler(settings).compile({"a", kText}, {})->v_LGNE;
  };
  const Tensor hidden = compiled({}), merged = compiled({"compressor.teacher.store=topk"});
  const Tensor whole = compiled({"compressor.teacher.store=topk", "compressor.teacher.top_k=1000000"});
  EXPECT_LT(testing::relative_error(whole, hidden), 1e-3);
  EXPECT_GT(testing::relative_error(merged, hidden), testing::relative_error(whole, hidden));
}

TEST_F(Compile, ExactKeysOfTheContextAreTheTeacher) {
  // Gate 1: K = L without training. The slots stand where the context stood, so nothing is turned.
  const RunConfig settings = config();
  const Tokenizer tokenizer = Tokenizer::load(settings.backbone.path);
  const Prompt prompt(settings.prompt, tokenizer);
  const auto backbone = Backbone::load(settings.backbone.path);
  const Document document = read_document(*backbone, prompt.head_ids(), prompt.context_ids(kText));
  const auto method = std::dynamic_pointer_cast<PerDocument>(
      make_compressor(settings.compressor, {.backbone = backbone->config(), .head_ids = {}, .seed = 0}));
  const QueryDraw queries = draw_queries(load_queries(settings.queries.path), 4, 4, 0);
  CompileSettings loop;
  loop.max_new = 6;
  loop.steps = 1;
  DocumentCompiler compiler(*backbone, prompt, *method, document, queries, loop);
  const CompileOutcome outcome = *compiler.run({});
  EXPECT_LT(compiler.measure(kv_memory(document.frozen)).kl_q, 1e-5);
  EXPECT_GT(outcome.none.kl_q, 1e-3);
  EXPECT_GT(outcome.none.nll_m, outcome.full.nll_m);
}

TEST_F(Compile, ReferencesAndVariantsRun) {
  for (const char* keys :
       {"compressor.optimise=buffers", "compressor.optimise=kv", "compressor.optimise=snapkv",
        "compressor.optimise=truncate", "compressor.artifact=embeds", "compressor.align_loss=mse",
        "compressor.align_loss=ce", "compressor.recon.loss=none", "compressor.lambda=0",
        "compressor.coupled=true", "compressor.lora_scope=all", "compressor.pos=spread",
        "compressor.lambda=auto", "compressor.storage=int8", "compressor.lora.dropout=0.2",
        "compressor.teacher.store=topk"}) {
    const RunConfig settings = config({keys, "train.steps=2", "train.valid_every=1"});
    ContextCompiler compiler(settings);
    const auto artifact = compiler.compile({"a", kText}, {});
    ASSERT_TRUE(artifact) << keys;
    compiler.save((folder_ / "v.safetensors").string(), *artifact);
    const std::string key = keys;
    const bool untrained = key.ends_with("snapkv") || key.ends_with("truncate");
    EXPECT_EQ(artifact->info["metrics"]["steps"], untrained                      ? 0
                                                  : key.ends_with("lambda=auto") ? 6
                                                                                 : 2)
        << key;
    const size_t named = artifact->info["method"].get<std::string>().find("optimise");
    EXPECT_EQ(named != std::string::npos, key.find("optimise") != std::string::npos);
  }
}

TEST_F(Compile, StartsFromTheSlotsOfATrainedCompressor) {
  const std::string base = (testing::root() / "models/tiny-facts").string(),
                    run = (folder_ / "comprexit").string();
  const auto train = [&](const std::string& directory, const std::string& path) {
    const RunConfig trained = testing::tiny_config(
        directory,
        {"backbone.init=pretrained", "backbone.path=" + path, "train.steps=1", "train.valid_every=0"},
        "{name: comprexit, ratio: 8, window: 16, gate_width: 16, metric_width: 16}", false);
    Trainer(trained, FolderUse::kNew).run();
  };
  train(run, base);
  const RunConfig settings =
      config({"compressor.warm_start=" + run, "compressor.optimise=buffers", "train.steps=1"});
  const auto warm = ContextCompiler(settings).compile({"a", kText}, {});
  const RunConfig without = config({"compressor.optimise=buffers", "train.steps=1"});
  const auto cold = ContextCompiler(without).compile({"a", kText}, {});
  EXPECT_NE(warm->info["metrics"]["untrained"], cold->info["metrics"]["untrained"]);
  EXPECT_EQ(warm->info["metrics"]["none"], cold->info["metrics"]["none"]);
  expect_error(ErrorKind::kUsage, "expected 1 to", [&] {
    const RunConfig fewer = config({"compressor.warm_start=" + run, "compressor.ratio=16"});
    ContextCompiler(fewer).compile({"a", kText}, {});
  });
  // The same shape, one weight another: a compressor of that base starts nothing here.
  const fs::path other = folder_ / "other";
  fs::copy(base, other);
  std::string weights = read_file((other / "model.safetensors").string());
  weights.back() ^= 1;
  write_file_atomic((other / "model.safetensors").string(), weights);
  train((folder_ / "foreign").string(), other.string());
  expect_error(ErrorKind::kInput, "weights_fingerprint",
               [&] { ContextCompiler(config({"compressor.warm_start=" + (folder_ / "foreign").string()})); });
  expect_error(ErrorKind::kInput, "holds no checkpoint",
               [&] { ContextCompiler(config({"compressor.warm_start=absent"})); });
}

TEST_F(Compile, LongTextsInSegments) {
  for (const char* mode : {"independent", "chained"}) {
    const RunConfig settings =
        config({"compressor.segment_tokens=40", fmt::format("compressor.segments={}", mode), "train.steps=2",
                "train.valid_every=1"});
    ContextCompiler compiler(settings);
    const auto artifact = compiler.compile({"a", kText}, {});
    ASSERT_TRUE(artifact) << mode;
    const int64_t tokens = artifact->info["context"]["n_tokens"].get<int64_t>();
    const std::vector<Tokens> parts = cut_segments(compiler.tokens_of({"a", kText}), 40);
    ASSERT_GT(parts.size(), 1u);
    int64_t slots = 0;
    for (const Tokens& part : parts) slots += compiler.slots_for(static_cast<int64_t>(part.size()));
    EXPECT_EQ(artifact->rows(), 1 + slots) << mode;
    EXPECT_EQ(tokens, static_cast<int64_t>(compiler.tokens_of({"a", kText}).size()));
    EXPECT_EQ(artifact->info["metrics"]["segments"].size(), parts.size());
    compiler.save((folder_ / "s.safetensors").string(), *artifact);
  }
}

TEST_F(Compile, BadInputsAreRefused) {
  const auto compile = [&](const std::string& text, const std::vector<std::string>& overrides = {}) {
    const RunConfig settings = config(overrides);
    ContextCompiler(settings).compile({"a", text}, {});
  };
  expect_error(ErrorKind::kInput, "context is empty", [&] { compile(""); });
  expect_error(ErrorKind::kInput, "too short to compile", [&] { compile("Ada"); });
  expect_error(ErrorKind::kInput, "special token",
               [&] { compile(std::string(kText) + "<|endoftext|>" + kText); });
  std::string longer;
  for (int i = 0; i < 30; ++i) longer += kText;
  expect_error(ErrorKind::kInput, "does not fit the window", [&] { compile(longer); });
  expect_error(ErrorKind::kUsage, "bank of random queries is too small",
               [&] { compile(kText, {"queries.count=20"}); });
  expect_error(ErrorKind::kUsage, "one context at a time",
               [&] { compile(kText, {"compressor={name: full}"}); });
  testing::write_text(folder_ / "empty.txt", " \n");
  expect_error(ErrorKind::kInput, "empty.txt: the context is empty",
               [&] { read_contexts(config({}, "empty.txt")); });
  expect_error(ErrorKind::kInput, "absent.txt: no such file",
               [&] { read_contexts(config({}, "absent.txt")); });
  expect_error(ErrorKind::kUsage, "data.contexts is empty", [&] { read_contexts(config({}, "")); });
}

TEST_F(Compile, ContextsOfJsonLinesGetNamesOfTheirOwn) {
  testing::write_text(folder_ / "b.jsonl",
                      "{\"id\": \"x/y\", \"text\": \"one\"}\n\n{\"context\": \"two\"}\n{\"id\": \"x/y\", "
                      "\"text\": \"three\"}\n");
  const std::vector<ContextText> contexts = read_contexts(config({}, "b.jsonl, a.txt"));
  std::vector<std::string> ids;
  for (const ContextText& context : contexts) ids.push_back(context.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"x-y", "b-3", "x-y-2", "a"}));
  testing::write_text(folder_ / "d.jsonl", "{\"context\": \"one\", \"continuation\": \" and two\"}\n");
  EXPECT_EQ(read_contexts(config({}, "d.jsonl")).at(0).continuation, " and two");
  testing::write_text(folder_ / "c.jsonl", "{\"title\": \"x\"}\n");
  expect_error(ErrorKind::kInput, "c.jsonl:1", [&] { read_contexts(config({}, "c.jsonl")); });
}

TEST_F(Compile, AnInterruptedRunGoesOnWithTheNextContext) {
  testing::write_text(folder_ / "b.txt", std::string("Tom knows this. ") + kText);
  const RunConfig settings = config({"train.steps=2", "train.valid_every=1"}, "a.txt, b.txt");
  const CompileRunResult all = compile_contexts(settings, FolderUse::kNew);
  EXPECT_EQ(all.compiled, 2);
  const fs::path a = folder_ / "run/memories/a.safetensors", b = folder_ / "run/memories/b.safetensors";
  const auto written = fs::last_write_time(a);
  const std::string expected = read_file(b.string());
  fs::remove(b);  // as if the run had been killed before it
  const CompileRunResult rest = compile_contexts(settings, FolderUse::kResume);
  EXPECT_EQ(rest.compiled, 1);
  EXPECT_EQ(rest.kept, 1);
  EXPECT_EQ(fs::last_write_time(a), written);
  EXPECT_TRUE(at::equal(load_memory(b.string()).k_LGNE, [&] {
    write_file_atomic((folder_ / "b.safetensors").string(), expected);
    return load_memory((folder_ / "b.safetensors").string()).k_LGNE;
  }()));
  expect_error(ErrorKind::kBusy, "not empty", [&] { compile_contexts(settings, FolderUse::kNew); });
  // Another text or configuration is compiled anew.
  const RunConfig changed = config({"train.steps=1", "train.valid_every=1"}, "a.txt, b.txt");
  EXPECT_EQ(compile_contexts(changed, FolderUse::kResume).compiled, 2);
}

}  // namespace
}  // namespace ctxc
