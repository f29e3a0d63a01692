// The MRQA benchmarks by name, and where their files lie below data.root: our layout
// (mrqa/SQuAD.dev.jsonl.gz), the official release (dev/SQuAD.jsonl.gz, dev/TriviaQA-web.jsonl.gz, …) or the
// ComprExIT repository's (mrqa/squad/validation_*.jsonl.gz).
#pragma once
#include <string>
#include <vector>

#include "data/source.h"

namespace ctxc {

struct Benchmark {
  std::string name;     ///< "squad": on the command line and in files
  std::string title;    ///< "SQuAD": in our files
  std::string release;  ///< "SQuAD", "TriviaQA-web": in the official release
  std::string peer;     ///< "squad", "trivia_qa": folder of the ComprExIT repository
  bool in_domain = true;
};
const std::vector<Benchmark>& benchmarks();

/// The sets to measure: `names` looked up below `root`, or, where `names` is empty, `listed` (data.eval) with
/// their names filled in. `all` means the six in-domain sets. A name that is no benchmark may be that of an
/// entry of `listed`. Error kUsage for unknown names (did-you-mean) and duplicates, kInput with the paths
/// tried for missing files.
std::vector<SourceConfig> resolve_benchmarks(const std::vector<std::string>& names, const std::string& root,
                                             const std::vector<SourceConfig>& listed);

}  // namespace ctxc
