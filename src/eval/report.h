// A report of run folders: loss curves (log.jsonl), tables with intervals (eval/results.json), sample answers
// (samples.jsonl, eval/records/), pictures (*.svg in the folder), the configuration.
#pragma once
#include <string>
#include <vector>

namespace ctxc {

struct Report {
  std::string html, markdown;
};

/// `folders`: run folders, or evaluation folders that hold results.json. Error kInput if one holds nothing to
/// report; broken lines of a log are named.
Report make_report(const std::vector<std::string>& folders);

}  // namespace ctxc
