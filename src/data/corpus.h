// Text for next-token training: JSONL(.gz) with a text column, or plain .txt(.gz) files (one document each).
// Documents are tokenised with what the tokenizer adds (Llama 3: BOS in front), joined and cut into blocks of
// context_tokens + generation_tokens: the first part is compressed, the rest is predicted. With
// `reconstruction` some blocks are cut into contexts that are to be repeated instead (comprexit.md section
// 6); an evaluation continues them all.
#pragma once
#include <memory>
#include <vector>

#include "data/source.h"

namespace ctxc {

/// Cuts token streams into blocks. `drop_group` > 0: the remainder of every so many documents is dropped;
/// else it is carried into the next block.
class BlockCutter {
 public:
  BlockCutter(int64_t block_tokens, int64_t drop_group) : block_(block_tokens), group_(drop_group) {}
  void add(const Tokens& document);
  const std::vector<Tokens>& blocks() const { return blocks_; }

 private:
  int64_t block_, group_, documents_ = 0;
  Tokens pending_;
  std::vector<Tokens> blocks_;
};

/// The next-token example of a block.
Example continuation_example(const Tokens& block, const ExampleRules& rules);

/// The ceil(block / context) examples of a block whose contexts are to be repeated after the instruction
/// "Repeat the previous content:"; the last context is moved back to end with the block.
std::vector<Example> reconstruction_examples(const Tokens& block, const ExampleRules& rules,
                                             const Tokenizer& tokenizer);

std::unique_ptr<DataSource> make_text_source(const SourceConfig& config,
                                             const std::vector<std::string>& files,
                                             const std::string& identity, const ExampleRules& rules,
                                             const Prompt& prompt);

}  // namespace ctxc
