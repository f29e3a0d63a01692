#include "train/context_compiler.h"

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "model/memory_edit.h"
#include "model/memory_record.h"
#include "train/compile_metrics.h"
#include "train/setup.h"

namespace ctxc {
namespace {

constexpr double kReloadTolerance = 1e-3;

namespace fs = std::filesystem;

/// Goes with its scope, unless it was renamed before.
struct UncheckedFile {
  explicit UncheckedFile(std::string name) : path(std::move(name)) {}
  UncheckedFile(const UncheckedFile&) = delete;
  ~UncheckedFile() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
  const std::string path;
};

double relative_gap(double found, double expected) {
  return std::abs(found - expected) / std::max(std::abs(expected), 1e-3);
}

}  // namespace

ContextCompiler::ContextCompiler(const RunConfig& config) : config_(config), inputs_(config) {
  BackboneOptions options;
  options.dtype = config.run.dtype;
  options.device = device_of(config);
  backbone_ = Backbone::load(config.backbone.path, options);
  const std::string& trained = inputs_.method().recipe().warm_start;
  if (!trained.empty()) warm_start_ = std::make_unique<WarmStart>(trained, *backbone_);
}

std::optional<MemoryArtifact> ContextCompiler::compile_segment(Document document,
                                                               const CompileWatcher& watcher,
                                                               Memory& memory) {
  PerDocument& method = inputs_.method();
  if (warm_start_) warm_start_->start(document, method.slots_for(document.length()));
  CompileSettings settings = inputs_.settings();
  settings.keep_parameters = keep_parameters_;
  DocumentCompiler compiler(*backbone_, inputs_.prompt(), method, document, inputs_.queries(), settings);
  std::optional<CompileOutcome> outcome = compiler.run(watcher);
  if (!outcome) return std::nullopt;
  memory = outcome->chosen.memory;
  chosen_ = outcome->chosen;
  held_out_.push_back(compiler.held_out());
  std::string name = config_.compressor.find("name")->scalar();
  const Yaml* optimise = config_.compressor.find("optimise");
  if (optimise && optimise->scalar() != "lora") name += " (optimise: " + optimise->scalar() + ")";
  const Tokenizer& tokenizer = inputs_.tokenizer();
  MemoryArtifact artifact = memory.kv.empty()
                                ? make_memory_artifact(memory, 0, *backbone_, tokenizer, name)
                                : make_kv_artifact(memory.kv, document.header, *backbone_, tokenizer, name);
  artifact = stored_as(artifact, method.recipe().storage);
  artifact.info["context"] = {{"sha256", nullptr}, {"n_tokens", document.length()}, {"truncated", false}};
  // What is stated and judged is what a reader of the file gets: after rounding to the stored type.
  artifact.info["metrics"] = compile_metrics(*outcome, compiler.measure(memory_of(artifact, *backbone_)));
  return artifact;
}

MemoryArtifact ContextCompiler::joined(const std::vector<MemoryArtifact>& segments,
                                       const std::string& id) const {
  if (segments.size() == 1) return segments[0];
  std::vector<OrderedJson> metrics;
  int64_t tokens = 0;
  for (const MemoryArtifact& segment : segments) {
    metrics.push_back(segment.info["metrics"]);
    tokens += segment.info["context"]["n_tokens"].get<int64_t>();
  }
  // The last segment of a chain stands behind the slots of the others already.
  MemoryArtifact artifact = inputs_.chained()
                                ? segments.back()
                                : stored_as(compose(segments, std::vector<std::string>(segments.size(), id)),
                                            inputs_.method().recipe().storage);
  artifact.info["context"]["n_tokens"] = tokens;
  artifact.info["metrics"] = joined_metrics(metrics, measure(artifact));
  return artifact;
}

std::optional<MemoryArtifact> ContextCompiler::compile(const ContextText& context,
                                                       const CompileWatcher& watcher) {
  const std::vector<Tokens> parts = inputs_.parts_of(context);
  held_out_.clear();
  std::vector<MemoryArtifact> segments;
  Memory memory;
  int64_t tokens = 0;
  for (const Tokens& part : parts) {
    const std::vector<KvPair> before = inputs_.chained() ? memory.kv : std::vector<KvPair>();
    std::optional<MemoryArtifact> segment = compile_segment(
        read_document(*backbone_, inputs_.prompt().head_ids(), part, before), watcher, memory);
    if (!segment) return std::nullopt;
    segments.push_back(std::move(*segment));
    tokens += static_cast<int64_t>(part.size());
  }
  MemoryArtifact artifact = joined(segments, context.id);
  const Prompt& prompt = inputs_.prompt();
  artifact.info["context"]["sha256"] = sha256_hex(context.text);
  artifact.info["ratio"] =
      static_cast<double>(tokens) / static_cast<double>(artifact.rows() - artifact.header());
  artifact.info["segments"] = parts.size();
  artifact.info["prompt"] = prompt_record(prompt);
  artifact.info["resume_text"] = prompt.config().question_prefix;
  for (const OrderedJson& gate : artifact.info["metrics"]["failed"])
    log_warning(fmt::format("{}: the compile failed a gate: {}", context.id, gate.get<std::string>()));
  return artifact;
}

CompileNumbers ContextCompiler::measure(const MemoryArtifact& artifact) const {
  const Memory memory = memory_of(artifact, *backbone_);
  const Tensor head_VD = backbone_->head_VD();
  const double count = static_cast<double>(held_out_.size());
  CompileNumbers mean;
  for (const HeldOutItems& items : held_out_) {
    const CompileNumbers numbers =
        measure_held_out(*backbone_, memory, items, head_VD, inputs_.method().recipe().tau);
    mean.kl_q += numbers.kl_q / count;
    mean.nll_m += numbers.nll_m / count;
  }
  return mean;
}

void ContextCompiler::keep_lora(const ContextText& context) {
  const Yaml* optimise = config_.compressor.find("optimise");
  CTXC_CHECK(optimise && optimise->scalar() == "lora", ErrorKind::kUsage, "set compressor.optimise=lora",
             "the compile has no adapters to keep (found compressor.optimise: {})",
             optimise ? optimise->scalar() : "none");
  const size_t segments = inputs_.parts_of(context).size();
  CTXC_CHECK(segments == 1, ErrorKind::kUsage, "raise compressor.segment_tokens",
             "{}: every segment has adapters of its own: those of {} segments cannot be kept", context.id,
             segments);
  keep_parameters_ = true;
}

LoraArtifact ContextCompiler::lora() const {
  LoraArtifact lora;
  if (const Yaml* section = config_.compressor.find("lora"))
    read_config(*section, lora.config, "compressor.lora");
  lora.tensors = chosen_.parameters.at("lora");
  lora.buffers_KD = chosen_.parameters.at("buffers").at("buffers");
  lora.info["format_version"] = 1;
  lora.info["method"] = config_.compressor.find("name")->scalar();
  lora.info["step"] = chosen_.step;
  lora.info["header_token_ids"] = inputs_.prompt().head_ids();
  lora.info["model"] = model_record(*backbone_);
  return lora;
}

void ContextCompiler::check_written(const MemoryArtifact& back, const std::string& path) const {
  check_memory_fits(back, *backbone_, inputs_.tokenizer(), false);
  const OrderedJson& metrics = back.info["metrics"];
  const CompileNumbers numbers = measure(back);
  const double kl = metrics["heldout_kl"].get<double>(), nll = metrics["probe_nll"].get<double>();
  CTXC_CHECK(
      relative_gap(numbers.kl_q, kl) <= kReloadTolerance &&
          relative_gap(numbers.nll_m, nll) <= kReloadTolerance,
      ErrorKind::kInternal, "please report this",
      "{}: the written memory reads differently from the measured one (heldout_kl {} and {}, probe_nll {} "
      "and {})",
      path, numbers.kl_q, kl, numbers.nll_m, nll);
}

void ContextCompiler::save(const std::string& path, const MemoryArtifact& artifact) {
  const fs::path parent = fs::path(path).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  // Through a link its target is replaced; the link itself stays.
  const std::string target = fs::is_symlink(path) && fs::exists(path) ? fs::canonical(path).string() : path;
  // A memory under its name counts as finished, so it gets the name last.
  const UncheckedFile unchecked(target + ".unchecked");
  save_memory(unchecked.path, artifact);
  check_written(load_memory(unchecked.path), path);
  std::error_code error;
  fs::rename(unchecked.path, target, error);
  CTXC_CHECK(!error, ErrorKind::kDisk, "choose another output path", "{}: cannot be put in place: {}", path,
             error.message());
}

}  // namespace ctxc
