#include "train/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "core/text.h"

namespace ctxc {

uint64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  in >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

RunLog::RunLog(const RunFolder& folder, int64_t first_step, int64_t steps, int64_t every)
    : log_(folder.file("log.jsonl"), first_step > 0),
      samples_(folder.file("samples.jsonl"), first_step > 0),
      events_(folder.file("tensorboard")),
      progress_("training", steps),
      every_(every) {}

RunLog::~RunLog() = default;

namespace {

/// " · ALARM collapse" for every term "alarm_…" of the method that is not 0.
std::string alarms_of(const StepRecord& record) {
  constexpr std::string_view kAlarm = "alarm_";
  std::string text;
  for (const auto& [name, value] : record.terms)
    if (name.starts_with(kAlarm) && value > 0) text += " · ALARM " + name.substr(kAlarm.size());
  return text;
}

}  // namespace

void RunLog::step(const StepRecord& record) {
  loss_average_ = any_ ? 0.98 * loss_average_ + 0.02 * record.loss : record.loss;
  any_ = true;
  const double tokens = static_cast<double>(record.context_tokens + record.query_tokens);
  const double per_second = record.seconds > 0 ? tokens / record.seconds : 0;
  const double wait = record.seconds > 0 ? record.data_wait / record.seconds : 0;
  progress_.update(
      record.step + 1,
      fmt::format("loss {:.4f} · lr {:.2e} · norm {:.2f} · {} tok/s · data wait {:.0f} %{}", loss_average_,
                  record.lr, record.grad_norm, human_count(per_second), 100 * wait, alarms_of(record)));
  if (record.step % every_ != 0) return;
  OrderedJson line{{"step", record.step}, {"loss", record.loss}};
  for (const auto& [name, value] : record.terms) line["terms"][name] = value;
  line["lr"] = record.lr;
  line["grad_norm"] = record.grad_norm;
  line["context_tokens"] = record.context_tokens;
  line["query_tokens"] = record.query_tokens;
  line["supervised_tokens"] = record.supervised_tokens;
  line["tokens_per_second"] = per_second;
  line["seconds"] = record.seconds;
  line["data_wait_seconds"] = record.data_wait;
  line["resident_bytes"] = resident_bytes();
  if (record.device_peak_bytes > 0) {
    line["device_bytes"] = record.device_bytes;
    line["device_peak_bytes"] = record.device_peak_bytes;
    events_.scalar("memory/device_peak_bytes", static_cast<double>(record.device_peak_bytes), record.step);
  }
  log_.write(line);
  events_.scalar("train/loss", record.loss, record.step);
  for (const auto& [name, value] : record.terms) events_.scalar("train/" + name, value, record.step);
  events_.scalar("train/lr", record.lr, record.step);
  events_.scalar("train/grad_norm", record.grad_norm, record.step);
  events_.scalar("speed/tokens_per_second", per_second, record.step);
}

void RunLog::validation(const ValidationRecord& record) {
  OrderedJson line{{"step", record.step - 1}, {"valid_loss", record.loss}};
  for (const auto& [name, value] : record.terms) line["valid_terms"][name] = value;
  line["valid_batches"] = record.batches;
  line["valid_seconds"] = record.seconds;
  log_.write(line);
  events_.scalar("valid/loss", record.loss, record.step);
  for (const auto& [name, value] : record.terms) events_.scalar("valid/" + name, value, record.step);
}

void RunLog::samples(int64_t step, const std::vector<Sample>& samples) {
  int64_t exact = 0;
  for (const Sample& sample : samples) {
    exact += sample.exact;
    samples_.write({{"step", step},
                    {"id", sample.id},
                    {"question", sample.question},
                    {"prediction", sample.prediction},
                    {"answers", sample.answers},
                    {"exact", sample.exact}});
  }
  if (samples.empty()) return;
  const double share = static_cast<double>(exact) / static_cast<double>(samples.size());
  log_.write({{"step", step - 1}, {"sample_exact_match", share}, {"samples", samples.size()}});
  events_.scalar("valid/sample_exact_match", share, step);
}

void RunLog::finish() {
  progress_.finish();
}

}  // namespace ctxc
