#include "data/source.h"

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "data/corpus.h"
#include "data/data_files.h"
#include "data/mrqa.h"
#include "data/qa_jsonl.h"
#include "data/qa_source.h"
#include "data/squad.h"

namespace ctxc {
namespace {

constexpr const char* kTinyFacts = "tiny-facts";
constexpr const char* kKeyValues = "key-values";

/// Hash of the files' bytes, in order.
std::string files_identity(const std::vector<std::string>& files) {
  std::string all;
  for (const std::string& file : files) all += sha256_hex_of_file(file) + "\n";
  return all;
}

using FileReader = void (*)(const std::string&, const SourceConfig&, ReadOptions&, const PassageSink&);

/// The factory of a format that reads passages from files, one file after the other until the sink has
/// enough.
SourceFactory qa_files(FileReader reader) {
  return [reader](const SourceConfig& config, const ExampleRules& rules, const Prompt& prompt) {
    const auto files = resolve_data_files(config.path, "");
    ReadOptions options{config.on_bad_line == "skip", 0};
    return make_qa_source(config, rules, prompt, files_identity(files), options,
                          [&](const PassageSink& sink) {
                            bool stopped = false;
                            for (const std::string& file : files) {
                              if (stopped) break;
                              reader(file, config, options, [&](Passage&& passage) {
                                const Reading answer = sink(std::move(passage));
                                stopped = answer == Reading::kStop;
                                return answer;
                              });
                            }
                          });
  };
}

std::unique_ptr<DataSource> open_text(const SourceConfig& config, const ExampleRules& rules,
                                      const Prompt& prompt) {
  const auto files = resolve_data_files(config.path, "");
  return make_text_source(config, files, files_identity(files), rules, prompt);
}

/// The factory of a format whose passages are made, not read: `passage(section, index)` for the section
/// `member`.
template <class Section>
SourceFactory generated(const char* generator, Section SourceConfig::*member,
                        Passage (*passage)(const Section&, int64_t)) {
  return [=](const SourceConfig& config, const ExampleRules& rules, const Prompt& prompt) {
    CTXC_CHECK(config.path == generator, ErrorKind::kUsage, "",
               "unknown generator (found '{}', expected '{}')", config.path, generator);
    const Section& section = config.*member;
    ReadOptions options;
    const std::string identity = fmt::format("{} 1\n{}", generator, dump_config(section));
    return make_qa_source(config, rules, prompt, identity, options, [&](const PassageSink& sink) {
      for (int64_t index = 0; index < section.count; ++index)
        if (sink(passage(section, index)) == Reading::kStop) return;
    });
  };
}

Registry<SourceFactory> make_registry() {
  Registry<SourceFactory> registry("data format");
  registry.add("mrqa",
               qa_files([](const std::string& file, const SourceConfig&, ReadOptions& options,
                           const PassageSink& sink) { read_mrqa(file, options, sink); }),
               "MRQA 2019 JSONL(.gz): a context with its questions per line");
  registry.add("squad",
               qa_files([](const std::string& file, const SourceConfig&, ReadOptions& options,
                           const PassageSink& sink) { read_squad(file, options, sink); }),
               "SQuAD v1.1 and v2 JSON");
  registry.add("qa_jsonl",
               qa_files([](const std::string& file, const SourceConfig& config, ReadOptions& options,
                           const PassageSink& sink) {
                 read_qa_jsonl(file, {config.context_column, config.question_column, config.answers_column},
                               options, sink);
               }),
               "JSONL(.gz) rows {context, question, answers}; columns configurable");
  registry.add("text", open_text, "next-token blocks from JSONL(.gz) with a text column, or .txt");
  registry.add("synthetic", generated(kTinyFacts, &SourceConfig::synthetic, synthetic_passage),
               "generated passages (path tiny-facts): facts about people");
  registry.add("key_values", generated(kKeyValues, &SourceConfig::key_values, key_values_passage),
               "generated passages (path key-values): pairs, keys written again, keys asked for");
  return registry;
}

}  // namespace

SourceConfig complete_source(SourceConfig config, const std::string& root) {
  if (config.format.empty() && config.path == kTinyFacts) config.format = "synthetic";
  if (config.format.empty() && config.path == kKeyValues) config.format = "key_values";
  if (config.format == "synthetic" || config.format == "key_values") {
    if (config.name.empty()) config.name = config.path;
    return config;
  }
  const std::filesystem::path path(config.path);
  if (!path.is_absolute() && !root.empty() && !config.path.empty())
    config.path = (std::filesystem::path(root) / path).string();
  // Folders, globs and missing files are reported with the user's own root.
  const auto files = resolve_data_files(config.path, "");
  if (config.format.empty()) config.format = recognise_format(files.front(), config);
  if (config.name.empty()) {
    const std::string stem = path.filename().string();
    config.name = stem.substr(0, stem.find('.', 1));
  }
  return config;
}

void SourceConfig::describe(Fields& f) {
  f("path", path,
    "file, glob or folder; relative paths below data.root; tiny-facts and key-values are generated")
      .required();
  f("format", format,
    "mrqa, squad, qa_jsonl, text, synthetic or key_values; empty: recognised by content and name")
      .one_of({"", "mrqa", "squad", "qa_jsonl", "text", "synthetic", "key_values"});
  f("name", name, "shown in tables; empty: the file's name without endings");
  f("weight", weight, "how often an example is seen, compared with those of the other entries").above(0);
  f("skip_samples", skip_samples, "so many contexts (text: blocks) at the beginning are left out").min(0);
  f("max_samples", max_samples, "first so many contexts (text: blocks) after those; 0 = all").min(0);
  f("on_bad_line", on_bad_line, "a broken line stops the program, or is left out and counted")
      .one_of({"error", "skip"});
  f("context_column", context_column, "qa_jsonl: key of the context");
  f("question_column", question_column, "qa_jsonl: key of the question");
  f("answers_column", answers_column, "qa_jsonl: key of the answer or the list of answers");
  f("text_column", text_column, "text: key of the document in JSONL");
  f.section("synthetic", synthetic, "what the generator tiny-facts makes");
  f.section("key_values", key_values, "what the generator key-values makes");
}

Registry<SourceFactory>& source_registry() {
  static Registry<SourceFactory> registry = make_registry();
  return registry;
}

std::unique_ptr<DataSource> open_source(const SourceConfig& config, const std::string& root,
                                        const ExampleRules& rules, const Prompt& prompt) {
  const SourceConfig entry = complete_source(config, root);
  auto source = source_registry().at(entry.format).factory(entry, rules, prompt);
  const SourceStats& stats = source->stats();
  CTXC_CHECK(source->size() > 0, ErrorKind::kInput, "",
             "{}: no usable example (found {} bad lines, {} questions or documents left out)", entry.path,
             stats.bad_lines, stats.dropped);
  return source;
}

}  // namespace ctxc
