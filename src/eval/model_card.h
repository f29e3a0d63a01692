// The README.md in a folder of an exported memory or of adapters: what it is, of which base, how well it
// reads, how a question is put, and a Python script that does so.
#pragma once
#include <string>

#include "eval/exporter.h"
#include "model/lora_artifact.h"
#include "model/memory_artifact.h"

namespace ctxc {

/// What an engine adds to a card. `python` goes on from eval/card_python.h (base, tokenizer, ids, GREEDY,
/// answer_text) and prints the answer; where it is empty the card has no script.
struct CardUse {
  std::string files = {};                    ///< what lies in the folder
  std::string standard = {}, packages = {};  ///< import lines, whole
  std::string python = {};
  std::string note = {};  ///< a paragraph behind it
};

std::string model_card(const MemoryArtifact& memory, const ExportRequest& request, const std::string& target,
                       const CardUse& use);
/// Of adapters: the script repeats the compile pass up to the slots' keys and values.
std::string adapter_card(const LoraArtifact& lora, const ExportRequest& request, const std::string& target,
                         const CardUse& use);
/// Of a PEFT adapter whose rows stand at position 0.
CardUse peft_use();

}  // namespace ctxc
