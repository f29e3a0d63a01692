#include "eval/benchmark.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

std::string set_name(const SourceConfig& entry) {
  if (!entry.name.empty()) return entry.name;
  std::string name = fs::path(entry.path).filename().string();
  for (const char* ending : {".gz", ".jsonl", ".json", ".txt"})
    if (name.size() > std::string_view(ending).size() && name.ends_with(ending))
      name.resize(name.size() - std::string_view(ending).size());
  return name.empty() ? "set" : name;
}

/// The first of the peer's validation files in `folder`, or "".
std::string peer_file(const fs::path& folder) {
  std::error_code ignored;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::string split = name.substr(0, name.find('_'));
    if (split == "validation" || split == "val" || split == "dev") found.push_back(entry.path().string());
  }
  return found.empty() ? "" : *std::min_element(found.begin(), found.end());
}

SourceConfig find_benchmark(const Benchmark& benchmark, const std::string& root) {
  const fs::path base = root.empty() ? fs::path(".") : fs::path(root);
  SourceConfig config;
  config.name = benchmark.name;
  config.format = "mrqa";
  std::vector<std::string> tried;
  for (const std::string& relative :
       {"mrqa/" + benchmark.title + ".dev.jsonl.gz", benchmark.title + ".dev.jsonl.gz",
        "mrqa/" + benchmark.title + ".dev.jsonl", "dev/" + benchmark.release + ".jsonl.gz",
        "mrqa/dev/" + benchmark.release + ".jsonl.gz", "ood/" + benchmark.release + ".jsonl.gz",
        "mrqa/ood/" + benchmark.release + ".jsonl.gz", "mrqa/" + benchmark.release + ".jsonl.gz",
        benchmark.release + ".jsonl.gz"}) {
    const fs::path path = base / relative;
    tried.push_back(relative);
    if (fs::is_regular_file(path)) {
      config.path = fs::absolute(path).lexically_normal().string();
      return config;
    }
  }
  const std::string folder = (benchmark.in_domain ? "mrqa/" : "mrqa_ood/") + benchmark.peer;
  tried.push_back(folder + "/validation_*");
  config.path = peer_file(base / folder);
  CTXC_CHECK(!config.path.empty(), ErrorKind::kInput,
             "set data.root (or the environment's CTXC_DATA), or fetch the files with scripts/get_mrqa.sh",
             "{}: no file of the benchmark '{}' (tried {})", base.string(), benchmark.name,
             join(tried, ", "));
  config.path = fs::absolute(config.path).lexically_normal().string();
  return config;
}

}  // namespace

const std::vector<Benchmark>& benchmarks() {
  static const std::vector<Benchmark> all = {
      {"squad", "SQuAD", "SQuAD", "squad"},
      {"newsqa", "NewsQA", "NewsQA", "news_qa"},
      {"triviaqa", "TriviaQA", "TriviaQA-web", "trivia_qa"},
      {"searchqa", "SearchQA", "SearchQA", "search_qa"},
      {"hotpotqa", "HotpotQA", "HotpotQA", "hotpot_qa"},
      {"naturalquestions", "NaturalQuestions", "NaturalQuestionsShort", "natural_questions"},
      {"bioasq", "BioASQ", "BioASQ", "bioasq", false},
      {"drop", "DROP", "DROP", "drop", false},
      {"duorc", "DuoRC", "DuoRC.ParaphraseRC", "duorc", false},
      {"race", "RACE", "RACE", "race", false},
      {"relationextraction", "RelationExtraction", "RelationExtraction", "relationextraction", false},
      {"textbookqa", "TextbookQA", "TextbookQA", "textbookqa", false},
  };
  return all;
}

std::vector<SourceConfig> resolve_benchmarks(const std::vector<std::string>& names, const std::string& root,
                                             const std::vector<SourceConfig>& listed) {
  std::vector<SourceConfig> result;
  std::vector<std::string> known = {"all"};
  for (const Benchmark& benchmark : benchmarks()) known.push_back(benchmark.name);
  for (const SourceConfig& entry : listed) known.push_back(set_name(entry));
  if (names.empty()) {
    result = listed;
    for (SourceConfig& entry : result) entry.name = set_name(entry);
  }
  for (const std::string& name : names) {
    const auto entry =
        std::find_if(listed.begin(), listed.end(), [&](const auto& e) { return set_name(e) == name; });
    const auto benchmark =
        std::find_if(benchmarks().begin(), benchmarks().end(), [&](const auto& b) { return b.name == name; });
    if (name == "all") {
      for (const Benchmark& each : benchmarks())
        if (each.in_domain) result.push_back(find_benchmark(each, root));
    } else if (entry != listed.end()) {
      result.push_back(*entry);
      result.back().name = name;
    } else {
      CTXC_CHECK(benchmark != benchmarks().end(), ErrorKind::kUsage, did_you_mean(name, known),
                 "unknown benchmark (found '{}', expected one of: {})", name, join(known, ", "));
      result.push_back(find_benchmark(*benchmark, root));
    }
  }
  CTXC_CHECK(!result.empty(), ErrorKind::kUsage,
             "name sets with --benchmarks squad,newsqa,… or list them under data.eval", "no set to evaluate");
  std::set<std::string> seen;
  for (const SourceConfig& entry : result)
    CTXC_CHECK(seen.insert(entry.name).second, ErrorKind::kUsage, "give one of them another `name`",
               "two sets to evaluate have the name '{}'", entry.name);
  return result;
}

}  // namespace ctxc
