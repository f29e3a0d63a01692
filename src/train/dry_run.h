// ctxc-train --dry-run: the resolved configuration, the files, their statistics, decoded examples with their
// masks, and the plan. Reads data and tokenizer, never weights; writes nothing.
#pragma once
#include <string>

#include "core/json.h"
#include "train/run_config.h"

namespace ctxc {

struct DryRun {
  std::string text;  ///< for people
  OrderedJson json;  ///< for --json
};
DryRun dry_run(const RunConfig& config);

}  // namespace ctxc
