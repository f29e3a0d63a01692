#include "train/compile_metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace ctxc {
namespace {

OrderedJson record_of(const CompileNumbers& numbers) {
  return {{"heldout_kl", numbers.kl_q}, {"probe_nll", numbers.nll_m}};
}

std::string probe_gate(double found, double none) {
  return fmt::format("probe_nll {:.4f} is not below no context's {:.4f} (more steps or a lower ratio)", found,
                     none);
}

}  // namespace

std::vector<std::string> failed_gates(const CompileNumbers& memory, const CompileNumbers& none,
                                      const CompileNumbers& untrained) {
  std::vector<std::string> failed;
  if (!(memory.nll_m < none.nll_m)) failed.push_back(probe_gate(memory.nll_m, none.nll_m));
  const double limit = std::max(none.kl_q, untrained.kl_q);
  if (!(memory.kl_q <= limit))
    failed.push_back(fmt::format(
        "heldout_kl {:.4f} is above {:.4f}, the larger of no context's and the untrained buffers' (a larger "
        "lambda, a lower ratio or more steps)",
        memory.kl_q, limit));
  return failed;
}

OrderedJson compile_metrics(const CompileOutcome& outcome, const CompileNumbers& stored) {
  OrderedJson last{{"step", outcome.last.step}};
  last.update(record_of(outcome.last.numbers));
  return {
      {"heldout_kl", stored.kl_q},
      {"probe_nll", stored.nll_m},
      {"none", record_of(outcome.none)},
      {"untrained", record_of(outcome.untrained)},
      {"full", record_of(outcome.full)},
      {"recon_token_acc", outcome.recon_accuracy},
      {"recon_tokens", outcome.recon_tokens},
      {"recon_first_error", outcome.recon_first_error},
      {"chosen_step", outcome.chosen.step},
      {"lambda", outcome.chosen.lambda},
      {"steps", outcome.steps},
      {"seconds", outcome.seconds},
      {"teacher_seconds", outcome.teacher_seconds},
      {"seconds_per_step", outcome.step_seconds / static_cast<double>(std::max<int64_t>(1, outcome.steps))},
      {"failed", failed_gates(stored, outcome.none, outcome.untrained)},
      {"before_storage", record_of(outcome.chosen.numbers)},
      {"last", last}};
}

OrderedJson joined_metrics(const std::vector<OrderedJson>& segments, const CompileNumbers& joined) {
  OrderedJson metrics = record_of(joined);
  const double count = static_cast<double>(segments.size());
  for (const char* reference : {"none", "untrained", "full"}) {
    CompileNumbers mean;
    for (const OrderedJson& segment : segments) {
      mean.kl_q += segment[reference]["heldout_kl"].get<double>() / count;
      mean.nll_m += segment[reference]["probe_nll"].get<double>() / count;
    }
    metrics[reference] = record_of(mean);
  }
  double equal = 0, seconds = 0, teacher = 0, stepping = 0;
  int64_t tokens = 0, steps = 0;
  std::vector<std::string> failed;
  for (size_t i = 0; i < segments.size(); ++i) {
    const OrderedJson& segment = segments[i];
    const int64_t asked = segment["recon_tokens"].get<int64_t>(), done = segment["steps"].get<int64_t>();
    equal += segment["recon_token_acc"].get<double>() * static_cast<double>(asked);
    stepping += segment["seconds_per_step"].get<double>() * static_cast<double>(done);
    seconds += segment["seconds"].get<double>();
    teacher += segment["teacher_seconds"].get<double>();
    tokens += asked;
    steps += done;
    for (const OrderedJson& gate : segment["failed"])
      failed.push_back(fmt::format("segment {} of {}: {}", i + 1, segments.size(), gate.get<std::string>()));
  }
  const double none = metrics["none"]["probe_nll"].get<double>();
  if (!(joined.nll_m < none)) failed.push_back("joined segments: " + probe_gate(joined.nll_m, none));
  metrics["recon_token_acc"] = equal / static_cast<double>(std::max<int64_t>(1, tokens));
  metrics["recon_tokens"] = tokens;
  metrics["steps"] = steps;
  metrics["seconds"] = seconds;
  metrics["teacher_seconds"] = teacher;
  metrics["seconds_per_step"] = stepping / static_cast<double>(std::max<int64_t>(1, steps));
  metrics["failed"] = failed;
  metrics["segments"] = segments;
  return metrics;
}

}  // namespace ctxc
