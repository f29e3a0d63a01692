// The loop around a per-document method: measurements, gates, steps, segments, artifacts.
#include <filesystem>
#include <set>

#include "compile_fixture.h"
#include "model/generate.h"
#include "model/memory_edit.h"
#include "testing.h"
#include "throws.h"
#include "tiny_llama.h"
#include "train/compile_metrics.h"
#include "train/compile_run.h"
#include "train/context_compiler.h"
#include "train/trainer.h"
#include "train_runs.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::Compile;
using testing::expect_error;
using testing::kText;

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
  EXPECT_EQ(info["n_slots"], compiler.inputs().slots_of(compiler.inputs().parts_of({"a", kText})));
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
  // A memory that fails has no name that a resumed run would take for finished, and replaces none.
  EXPECT_FALSE(fs::exists(folder_ / "n.safetensors"));
  expect_error(ErrorKind::kInternal, "reads differently",
               [&] { compiler.save((folder_ / "m.safetensors").string(), other); });
  EXPECT_TRUE(at::equal(load_memory((folder_ / "m.safetensors").string()).k_LGNE, artifact->k_LGNE));
  for (const auto& entry : fs::directory_iterator(folder_.str()))
    EXPECT_EQ(entry.path().string().find("unchecked"), std::string::npos) << entry.path();
}

TEST_F(Compile, GatesJudgeWhatIsWritten) {
  CompileOutcome outcome;
  outcome.none = {0.5, 4};
  outcome.untrained = {0.4, 5};
  outcome.chosen.numbers = {0.49, 3};
  EXPECT_TRUE(compile_metrics(outcome, {0.5, 3.9})["failed"].empty());
  const OrderedJson rounded = compile_metrics(outcome, {0.51, 4.1});
  EXPECT_EQ(rounded["failed"].size(), 2u);
  EXPECT_EQ(rounded["heldout_kl"], 0.51);
  EXPECT_EQ(rounded["before_storage"]["heldout_kl"], 0.49);
  // Of a whole compile: the list says what the stated numbers say.
  for (const char* storage : {"float32", "int8"}) {
    for (const char* ratio : {"2", "8", "32"}) {
      const RunConfig settings =
          config({"compressor.optimise=truncate", fmt::format("compressor.storage={}", storage),
                  fmt::format("compressor.ratio={}", ratio)});
      const OrderedJson metrics = ContextCompiler(settings).compile({"a", kText}, {})->info["metrics"];
      const double limit = std::max(metrics["none"]["heldout_kl"].get<double>(),
                                    metrics["untrained"]["heldout_kl"].get<double>());
      const size_t failed = (metrics["heldout_kl"].get<double>() > limit) +
                            (metrics["probe_nll"] >= metrics["none"]["probe_nll"]);
      EXPECT_EQ(metrics["failed"].size(), failed) << storage << " " << ratio << " " << metrics.dump();
    }
  }
}

TEST_F(Compile, AccumulatedBatchesAreOneBatch) {
  const auto steps_of = [&](const std::vector<std::string>& keys) {
    std::vector<std::string> all = {"train.steps=3", "train.valid_every=0", "compressor.recon.chunk=16",
                                    "compressor.lora.dropout=0.1"};
    all.insert(all.end(), keys.begin(), keys.end());
    const RunConfig settings = config(all);
    std::vector<CompileStep> steps;
    CompileWatcher watcher;
    watcher.step = [&](const CompileStep& step, int64_t) { steps.push_back(step); };
    ContextCompiler(settings).compile({"a", kText}, watcher);
    return steps;
  };
  const auto whole = steps_of({"train.batch=4"}), parts = steps_of({"train.batch=2", "train.accumulate=2"}),
             single = steps_of({"train.batch=1", "train.accumulate=4"});
  ASSERT_EQ(whole.size(), 3u);
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const auto* cut : {&parts, &single}) {
      EXPECT_NEAR((*cut)[i].loss, whole[i].loss, 1e-4 * whole[i].loss) << i;
      EXPECT_NEAR((*cut)[i].align, whole[i].align, 1e-3 * whole[i].align) << i;
      EXPECT_NEAR((*cut)[i].grad_norm, whole[i].grad_norm, 1e-3 * whole[i].grad_norm) << i;
    }
  }
  EXPECT_GT(whole[0].align, 0);
}

TEST_F(Compile, AStepHoldsBothTerms) {
  const auto inputs = [&](const std::string& key) {
    return CompileInputs(config({"train.batch=1", key})).settings().batch;
  };
  EXPECT_NE(expect_error(ErrorKind::kUsage, "train.batch: a step needs", [&] { inputs("train.steps=2"); })
                .find("train.batch=2"),
            std::string::npos);
  for (const char* key : {"compressor.lambda=0", "compressor.recon.loss=none", "train.accumulate=2",
                          "compressor.optimise=truncate"})
    EXPECT_EQ(inputs(key), 1) << key;
}

TEST_F(Compile, AdaptersThatCannotBeKeptAreRefusedBeforeTheCompile) {
  const RunConfig buffers = config({"compressor.optimise=buffers"});
  expect_error(ErrorKind::kUsage, "no adapters to keep", [&] {
    ContextCompiler(buffers).keep_lora({"a", kText});
  });
  const RunConfig cut = config({"compressor.segment_tokens=40"});
  expect_error(ErrorKind::kUsage, "every segment has adapters", [&] {
    ContextCompiler(cut).keep_lora({"a", kText});
  });
  const RunConfig settings = config({"train.steps=1"});
  ContextCompiler compiler(settings);
  compiler.keep_lora({"a", kText});
  compiler.compile({"a", kText}, {});
  EXPECT_FALSE(compiler.lora().tensors.empty());
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

TEST_F(Compile, StartsFromTheKeysAndValuesOfATrainedCompressor) {
  const std::string base = (testing::root() / "models/tiny-facts").string(),
                    run = (folder_ / "500x").string();
  const RunConfig trained = testing::tiny_config(
      run, {"backbone.init=pretrained", "backbone.path=" + base, "train.steps=1", "train.valid_every=0"},
      "{name: 500x, ratio: 8, memory_tokens: 16, lora: {rank: 2, alpha: 4}}", false);
  Trainer(trained, FolderUse::kNew).run();
  // The compressor serves its keys behind BOS, a compile behind its header: turned by the difference.
  const std::shared_ptr<Backbone> backbone = Backbone::load(base);
  const WarmStart warm_start(run, *backbone);
  const Tokens context = testing::random_tokens(30, 5);
  Document near = read_document(*backbone, {1}, context),
           far = read_document(*backbone, {1, 2, 3, 4}, context);
  warm_start.start(near, 4);
  warm_start.start(far, 4);
  ASSERT_EQ(near.start_kv.size(), static_cast<size_t>(backbone->config().num_layers));
  EXPECT_FALSE(near.start_KD.defined());
  for (size_t layer = 0; layer < near.start_kv.size(); ++layer) {
    const KvPair &one = near.start_kv[layer], &other = far.start_kv[layer];
    ASSERT_EQ(one.key_BGKE.size(2), 4);
    EXPECT_TRUE(at::equal(one.value_BGKE, other.value_BGKE));
    EXPECT_LT(testing::relative_error(
                  shift_keys(one.key_BGKE, at::full({4}, 3, at::kLong), backbone->inverse_frequencies()),
                  other.key_BGKE),
              1e-5);
    EXPECT_GT(testing::relative_error(one.key_BGKE, other.key_BGKE), 1e-3);
  }
  // The state before the first step is that memory.
  const std::shared_ptr<PerDocument> method = std::dynamic_pointer_cast<PerDocument>(
      make_compressor(Yaml::parse("{name: lcc, ratio: 8, optimise: kv}", "test"),
                      {.backbone = backbone->config(), .head_ids = {}, .seed = 4}));
  method->begin(*backbone, far);
  const Memory untrained = method->memory(*backbone);
  EXPECT_EQ(untrained.slots(), 8);
  EXPECT_TRUE(at::equal(untrained.kv[1].key_BGKE.narrow(2, 4, 4).detach(), far.start_kv[1].key_BGKE));
  EXPECT_TRUE(
      at::equal(untrained.kv[1].value_BGKE.narrow(2, 0, 4), far.frozen[1].value_BGKE.narrow(2, 0, 4)));

  const std::vector<std::string> keys = {"compressor.warm_start=" + run, "compressor.ratio=8",
                                         "train.steps=1"};
  std::vector<std::string> direct = keys;
  direct.push_back("compressor.optimise=kv");
  const auto warm = ContextCompiler(config(direct)).compile({"a", kText}, {});
  const auto cold = ContextCompiler(config({"compressor.ratio=8", "train.steps=1", "compressor.optimise=kv"}))
                        .compile({"a", kText}, {});
  EXPECT_NE(warm->info["metrics"]["untrained"], cold->info["metrics"]["untrained"]);
  EXPECT_EQ(warm->info["metrics"]["none"], cold->info["metrics"]["none"]);
  expect_error(ErrorKind::kUsage, "no start for buffers", [&] {
    ContextCompiler(config(keys)).compile({"a", kText}, {});
  });
}

TEST_F(Compile, LongTextsInSegments) {
  for (const char* mode : {"independent", "chained"}) {
    const RunConfig settings =
        config({"compressor.segment_tokens=40", fmt::format("compressor.segments={}", mode), "train.steps=2",
                "train.valid_every=1"});
    ContextCompiler compiler(settings);
    const auto artifact = compiler.compile({"a", kText}, {});
    ASSERT_TRUE(artifact) << mode;
    const std::vector<Tokens> parts = compiler.inputs().parts_of({"a", kText});
    ASSERT_GT(parts.size(), 1u);
    EXPECT_EQ(artifact->rows(), 1 + compiler.inputs().slots_of(parts)) << mode;
    size_t tokens = 0;
    for (const Tokens& part : parts) tokens += part.size();
    EXPECT_EQ(artifact->info["context"]["n_tokens"], tokens);
    // The joined memory has numbers, references and costs of its own …
    const OrderedJson& metrics = artifact->info["metrics"];
    const OrderedJson& segments = metrics["segments"];
    ASSERT_EQ(segments.size(), parts.size());
    EXPECT_EQ(metrics["steps"], 2 * parts.size());
    EXPECT_GT(metrics["heldout_kl"].get<double>(), 0);
    double none = 0;
    size_t failed = 0;
    for (const OrderedJson& segment : segments) {
      none += segment["none"]["probe_nll"].get<double>() / static_cast<double>(segments.size());
      failed += segment["failed"].size();
    }
    EXPECT_NEAR(metrics["none"]["probe_nll"].get<double>(), none, 1e-9);
    // … every failed gate of a segment is one of the memory's …
    failed += metrics["probe_nll"].get<double>() >= none;
    EXPECT_EQ(metrics["failed"].size(), failed) << metrics.dump();
    // … and it is checked as it was written.
    const std::string path = (folder_ / (std::string(mode) + ".safetensors")).string();
    compiler.save(path, *artifact);
    MemoryArtifact other = *artifact;
    other.k_LGNE = other.k_LGNE * 1.02;
    expect_error(ErrorKind::kInternal, "reads differently", [&] { compiler.save(path + "x", other); });
    EXPECT_FALSE(fs::exists(path + "x"));
  }
}

TEST_F(Compile, FailedGatesOfSegmentsCount) {
  CompileOutcome good, bad;
  good.none = bad.none = {0.5, 4};
  good.steps = bad.steps = 2;
  const std::vector<OrderedJson> segments = {compile_metrics(good, {0.1, 3}),
                                             compile_metrics(bad, {0.1, 4.5})};
  const OrderedJson joined = joined_metrics(segments, {0.2, 3.5}),
                    lost = joined_metrics(segments, {0.2, 4.5});
  ASSERT_EQ(joined["failed"].size(), 1u);
  EXPECT_EQ(joined["failed"][0].get<std::string>().find("segment 2 of 2: probe_nll 4.5000"), 0u);
  EXPECT_EQ(joined["steps"], 4);
  EXPECT_EQ(joined["probe_nll"], 3.5);
  EXPECT_EQ(lost["failed"].size(), 2u);
}

}  // namespace
}  // namespace ctxc
