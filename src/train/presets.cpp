#include "train/presets.h"

#include <string>
#include <string_view>
#include <vector>

#include "core/text.h"

namespace ctxc {
namespace {

using Keys = std::vector<std::pair<const char*, const char*>>;

/// Of lcc, where the preset says nothing else. The frame of a chat where the base has one; answers are shown
/// whole.
const Keys kLcc = {{"prompt.cleanup", "none"},
                   {"prompt.head", "auto"},
                   {"prompt.question_prefix", "\"\\n\\n\""},
                   {"prompt.answer_prompt", "\"\""},
                   {"prompt.answer_extractor", "whole"},
                   {"train.betas", "[0.9, 0.95]"},
                   {"train.schedule", "cosine"},
                   {"train.warmup", "0.03"},
                   {"train.batch", "8"},
                   {"train.valid_every", "25"}};

/// Without continuations a memory of prose reads worse than none where the prose goes on, with them no worse
/// on questions (experiments/lcc-smollm2).
const Keys kDefault = {{"train.steps", "600"},
                       {"train.lr", "2.0e-4"},
                       {"train.final_lr", "0.1"},
                       {"queries.continuations", "16"}};

/// As published where it says so (learning rate, epochs, whole-context reconstruction by KL).
const Keys kPaper = {{"train.steps", "0"},
                     {"train.epochs", "45"},
                     {"train.lr", "2.0e-5"},
                     {"compressor.buffers.lr", "2.0e-5"},
                     {"compressor.recon.chunk", "0"},
                     {"compressor.recon.loss", "kl"},
                     {"compressor.patience", "0"}};

/// For a base of some hundred million parameters on a few CPU cores. On SmolLM2-135M the mean of a block's
/// embeddings, rescaled to their norm, is so unlike any token that untrained slots are read as noise (NLL of
/// the probes 9.9 at 8x, none 4.2, uniform 10.8); the block's last token starts where no context does (4.2).
const Keys kSmall = {{"train.steps", "600"},
                     {"train.lr", "1.0e-3"},
                     {"train.final_lr", "0.1"},
                     {"train.batch", "4"},
                     {"train.valid_every", "50"},
                     {"compressor.buffers.init", "strided"},
                     {"compressor.buffers.lr", "1.0e-2"},
                     {"compressor.recon.chunk", "128"},
                     {"queries.count", "64"},
                     {"queries.held_out", "8"},
                     {"queries.continuations", "8"},
                     {"queries.max_new", "48"}};

const Yaml* find(const Yaml& document, std::string_view dotted) {
  const Yaml* node = &document;
  for (const std::string& key : split(dotted, '.')) {
    if (node->kind() != Yaml::Kind::kMap) return nullptr;
    node = node->find(key);
    if (!node) return nullptr;
  }
  return node;
}

std::string text_at(const Yaml& document, std::string_view dotted) {
  const Yaml* node = find(document, dotted);
  return node && node->kind() == Yaml::Kind::kScalar ? node->scalar() : "";
}

}  // namespace

Yaml with_preset(Yaml document) {
  if (text_at(document, "compressor.name") != "lcc") return document;
  const std::string preset = text_at(document, "compressor.preset");
  // The preset first: what it says goes before what all of them share.
  for (const Keys* keys : {preset == "paper" ? &kPaper : preset == "small" ? &kSmall : &kDefault, &kLcc})
    for (const auto& [key, value] : *keys)
      if (!find(document, key))
        document = document.with(key, Yaml::parse(value, std::string("preset ") + preset));
  return document;
}

}  // namespace ctxc
