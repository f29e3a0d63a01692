// Virtual tokens in front of the slots of another method, trained together with it:
//   memory = [head ; P + delta ; slots of `method`]
// A compressor that is trained from nothing learns two things with the same slots: the form of the data (what
// prompt tuning learns without any text) and what the text says. Here the form has parameters of its own, as
// it has in the references that read virtual tokens before a cut of the text (prompt_tuning), so that the two
// are compared with the same rows for the form. `ratio` of the method counts its slots; the virtual tokens
// are read beside them and counted among the vectors read. Not of a paper: see experiments/diffusion-smollm2.
#include "core/error.h"
#include "model/blocks/virtual_tokens.h"

namespace ctxc {
namespace {

struct PromptedConfig {
  Yaml method;
  int64_t tokens = 16;
  std::vector<int64_t> init_ids;
  void describe(Fields& f) {
    f("method", method,
      "the compressor whose slots stand behind the virtual tokens: its section, as `compressor`");
    f("tokens", tokens, "virtual tokens").min(1).unit("tokens");
    f("init_ids", init_ids, kInitIdsHelp);
  }
};

/// Several times virtual tokens would be one time more of them.
void check_method(const Yaml& method, const std::string& path) {
  const Yaml* name = method.kind() == Yaml::Kind::kMap ? method.find("name") : nullptr;
  if (!name || name->kind() != Yaml::Kind::kScalar || !compressor_registry().contains(name->scalar()))
    return;  // resolve_compressor says so
  CTXC_CHECK(
      name->scalar() != "prompted" &&
          compressor_registry().at(name->scalar()).factory.scope == Scope::kAmortized,
      ErrorKind::kUsage, "ctxc-train --list compressors",
      "{}: {}.name: not a compressor for virtual tokens (found '{}', expected a trained compressor of all "
      "contexts)",
      name->where(), path, name->scalar());
}

/// With the defaults of the method filled in.
PromptedConfig resolved(PromptedConfig config, const std::string& path = "compressor") {
  check_method(config.method, path + ".method");
  config.method = resolve_compressor(config.method, path + ".method");
  return config;
}

class Prompted : public Compressor {
 public:
  using Config = PromptedConfig;
  Prompted(Config config, CompressorSetup setup) : config_(resolved(std::move(config))) {
    method_ = register_module("method", make_compressor(config_.method, setup));
    CTXC_CHECK(!method_->needs().kv, ErrorKind::kUsage, "take a method that gives slots",
               "compressor.method: virtual tokens stand before slots (found a method whose memory is keys "
               "and values)");
    ids_K_ = virtual_token_ids(config_.tokens, config_.init_ids, setup.backbone.vocab_size);
    delta_KD_ = register_parameter("delta", at::zeros({config_.tokens, setup.backbone.hidden_size}));
  }

  Needs needs() const override { return method_->needs(); }
  int64_t slots_for(int64_t context_tokens) const override {
    return config_.tokens + method_->slots_for(context_tokens);
  }
  int64_t stream_tokens() const override { return method_->stream_tokens(); }

  Compressed compress(Context& context, const StepKey& key, const State& in) override {
    Compressed result = method_->compress(context, key, in);
    recorded_ = method_->recorded();
    Memory& memory = result.memory;
    const int64_t batch = memory.batch(), head = memory.head_ids_BP.size(1), more = config_.tokens;
    const Tensor rows_KD = virtual_tokens(ids_K_, delta_KD_, context.backbone());
    memory.slots_BKD =
        at::cat({rows_KD.to(memory.slots_BKD.scalar_type()).expand({batch, -1, -1}), memory.slots_BKD}, 1);
    const Tensor there_BK = at::ones({batch, more}, memory.mask_BK.options());
    const Tensor place_BK = at::arange(head, head + more, memory.position_BK.options()).expand({batch, more});
    const Tensor behind_BK = (memory.position_BK + more).masked_fill(memory.mask_BK.logical_not(), 0);
    memory.mask_BK = at::cat({there_BK, memory.mask_BK}, 1);
    memory.position_BK = at::cat({place_BK, behind_BK}, 1);
    memory.next_position_B = memory.next_position_B + more;
    return result;
  }

  std::string config_yaml() const override { return dump_config(config_); }
  std::map<std::string, std::string> idle_parameters() const override {
    std::map<std::string, std::string> idle;
    for (const auto& [name, why] : method_->idle_parameters()) idle["method." + name] = why;
    return idle;
  }
  std::vector<std::string> undecayed_parameters() const override {
    std::vector<std::string> names = method_->undecayed_parameters();
    for (std::string& name : names) name.insert(0, "method.");
    return names;
  }
  void record(bool on) override { method_->record(on); }

 private:
  Config config_;
  std::shared_ptr<Compressor> method_;
  Tensor ids_K_, delta_KD_;
};

CompressorEntry entry() {
  CompressorEntry entry = detail::compressor_entry<Prompted>();
  entry.resolve = [](const Yaml& section, const std::string& path) {
    PromptedConfig config;
    read_config(section, config, path, {"name"});
    return dump_config(resolved(std::move(config), path));
  };
  return entry;
}

const bool registered_prompted = compressor_registry().add(
    "prompted", entry(), "virtual tokens in front of another method's slots, trained together with it");

}  // namespace
}  // namespace ctxc
