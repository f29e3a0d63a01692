// The output folder of an evaluation (interface.md section 2): results.json, results.md, predictions/,
// records/. Entries of plain text have `nll` and `perplexity` in place of the scores, and no predictions;
// means over sets leave them out. Without eval.answers questions have `nll` in place of the scores. Every
// finished set is on disk at once, so that an interrupted evaluation goes on where it stopped.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "eval/evaluator.h"

namespace ctxc {

/// A method on a set: what results.json says, and the scores behind it.
struct EvalEntry {
  OrderedJson json;
  std::vector<ScoredQuestion> scores;
};

class EvalResults {
 public:
  /// `methods` and `sets` in table order. `header` holds what is true of the whole evaluation (checkpoint,
  /// model, limit, …). Entries that an earlier evaluation left in `directory` are taken over by reuse().
  EvalResults(std::string directory, std::vector<std::string> methods, std::vector<std::string> sets,
              OrderedJson header, int64_t resamples);

  /// True if the folder holds this method on this set, made under the same `key` (a hash of all that decides
  /// the answers), with its records intact; it is then part of the results.
  bool reuse(const std::string& method, const std::string& set, const std::string& key);
  /// Writes predictions and records of a finished set, and results.json and results.md anew.
  void add(const SetResult& result, const std::string& key, const SourceStats& stats);
  /// To be called at the end: what was taken over by reuse() after the last add() gets into the files. Files
  /// to which nothing was added stay as they are.
  void finish() const;

  /// header["nll"]: the NLL of the answers was measured (that of plain text always is).
  bool measures_nll() const { return header_.is_object() && header_.value("nll", false); }
  /// results.json: header, entries, macro means, paired differences against the main method.
  OrderedJson summary() const;
  const std::string& directory() const { return directory_; }

 private:
  std::string relative(const char* folder, const std::string& method, const std::string& set,
                       const char* ending) const;
  void write() const;

  std::string directory_;
  std::vector<std::string> methods_, sets_;
  OrderedJson header_;
  int64_t resamples_;
  bool added_ = false;
  OrderedJson earlier_;                                               ///< entries of the results.json found
  std::map<std::pair<std::string, std::string>, EvalEntry> entries_;  ///< by (method, set)
};

/// One table of a results.json as people read it; first row = header.
struct ResultTable {
  std::string title;
  std::vector<std::vector<std::string>> rows;
};
/// F1 with intervals, exact match, NLL of answers and of plain text, differences, costs: those that have
/// rows.
std::vector<ResultTable> result_tables(const OrderedJson& summary);
/// The tables as Markdown, with a line on what they show.
std::string results_markdown(const OrderedJson& summary);

}  // namespace ctxc
