#include "train/trainer.h"

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/stop.h"
#include "core/text.h"
#include "model/device.h"
#include "train/precision.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

AdamWOptions adamw_options(const TrainSection& train, const Compressor& compressor) {
  AdamWOptions options{train.betas[0], train.betas[1], train.eps, train.weight_decay};
  for (const std::string& name : compressor.undecayed_parameters())
    options.undecayed.insert("compressor." + name);
  return options;
}

LrSchedule lr_schedule(const TrainSection& train, int64_t steps) {
  return {train.lr, train.schedule, warmup_steps(train.warmup, steps), steps, train.final_lr};
}

void add_terms(std::map<std::string, double>& sums, const Terms& terms, double share) {
  for (const auto& [name, value] : terms) sums[name] += share * value.detach().item<double>();
}

/// Values of another run into the tensors of this one: all of them, or, if `partial`, those that both have.
void start_from(const NamedTensors& tensors, std::map<std::string, Tensor> values, bool partial,
                const std::string& origin) {
  if (!partial) return copy_into(tensors, values, origin);
  NamedTensors shared;
  std::map<std::string, Tensor> taken;
  for (const auto& [name, tensor] : tensors) {
    if (!values.count(name)) continue;
    shared.emplace_back(name, tensor);
    taken.emplace(name, values.at(name));
  }
  CTXC_CHECK(!shared.empty(), ErrorKind::kInput, "name a checkpoint of the same method",
             "{}: shares no tensor with this run (found {} names there, {} here)", origin, values.size(),
             tensors.size());
  copy_into(shared, taken, origin);
  log_info(fmt::format("{}: {} of {} tensors are taken over, the others start fresh", origin, shared.size(),
                       tensors.size()));
}

/// At most `count` of the names, and how many more there are.
std::string some_of(const std::vector<std::string>& names, size_t count) {
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<int64_t>(std::min(count, names.size())));
  return join(shown, ", ") + (names.size() > count ? fmt::format(" and {} more", names.size() - count) : "");
}

}  // namespace

Trainer::Trainer(RunConfig config, FolderUse use)
    : config_(std::move(config)),
      folder_(config_.directory(), use),
      data_(open_training_data(config_)),
      model_(build_training_model(config_, data_)),
      weights_(config_.objective_weights()),
      objectives_(make_objectives(weights_)),
      optimizer_(model_.trainable, adamw_options(config_.train, *model_.compressor)),
      schedule_(lr_schedule(config_.train, data_.steps)),
      fingerprint_(data_.batches.fingerprint()) {
  set_deterministic(config_.train.deterministic);
  if (use == FolderUse::kResume) resume();
  if (step_ == 0 && !config_.train.init_from.empty()) {
    const CheckpointFolder from = find_checkpoint(config_.train.init_from);
    start_from(model_.trainable, from.trainable(), config_.train.init_partial, from.path);
  }
  folder_.begin();
  write_file_atomic(folder_.file("config.yaml"), dump_config(config_));
  folder_.forget_lines_from("log.jsonl", step_);
  folder_.forget_lines_from("samples.jsonl", step_ + 1);
  log_ = std::make_unique<RunLog>(folder_, step_, data_.steps, config_.train.log_every);
}

Trainer::~Trainer() = default;

void Trainer::resume() {
  const std::optional<CheckpointFolder> found = newest_checkpoint(folder_.path());
  if (!found) {
    log_info(fmt::format("{}: no checkpoint yet, starting from step 0", folder_.path()));
    return;
  }
  const std::vector<std::string> changes =
      changed_keys(resolve_run_config(Yaml::parse(found->config, found->path)), config_);
  CTXC_CHECK(changes.empty(), ErrorKind::kUsage, "put them back, or start a new run with train.init_from",
             "{}: cannot be resumed with another configuration: {}", found->path, join(changes, "; "));
  CTXC_CHECK(found->data_fingerprint == fingerprint_, ErrorKind::kInput,
             "put the files back, or start a new run with train.init_from",
             "{}: the training data are not those of the checkpoint (found fingerprint {}, expected {})",
             found->path, fingerprint_.substr(0, 12), found->data_fingerprint.substr(0, 12));
  copy_into(model_.trainable, found->trainable(), found->path + "/trainable.safetensors");
  load_training_state(found->optimizer(), found->path + "/optimizer.safetensors");
  step_ = saved_step_ = found->step;
  best_ = found->best;
  last_checkpoint_ = found->path;
  log_info(fmt::format("resuming {} at step {}", found->path, step_));
}

void Trainer::load_training_state(std::map<std::string, Tensor> tensors, const std::string& origin) {
  std::map<std::string, Tensor> method;
  for (const auto& [name, buffer] : model_.state) {
    auto node = tensors.extract(name);
    if (!node.empty()) method.insert(std::move(node));
  }
  copy_into(model_.state, method, origin);
  optimizer_.load_state(tensors, origin);
}

TrainResult Trainer::run() {
  const int64_t accumulate = config_.train.accumulate;
  loader_ = std::make_unique<Loader>(
      [this, accumulate](int64_t index) {
        return data_.batches.batch(index / accumulate, index % accumulate);
      },
      step_ * accumulate);
  TrainResult result;
  result.steps = data_.steps;
  while (step_ < data_.steps) {
    const std::optional<StepRecord> record = step_or_plan();
    if (!record) break;  // a signal: the unfinished step leaves no trace
    ++step_;
    result.last_loss = record->loss;
    log_->step(*record);
    if (config_.train.valid_every > 0 && step_ % config_.train.valid_every == 0) validate();
    if (config_.train.save_every > 0 && step_ % config_.train.save_every == 0) save();
    if (stop_requested()) break;
  }
  result.signal = stop_signal();
  if (result.signal == 0 && validated_step_ != step_) validate();
  if (saved_step_ != step_) save();
  log_->finish();
  result.steps_done = step_;
  result.best = best_;
  result.checkpoint = last_checkpoint_;
  return result;
}

std::optional<StepRecord> Trainer::step_or_plan() {
  try {
    return step();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (!is_out_of_memory(text)) throw;
    int64_t trainable = 0;
    for (const Tensor& parameter : model_.compressor->parameters())
      if (parameter.requires_grad()) trainable += parameter.numel();
    throw out_of_memory(
        step_, text.substr(0, text.find('\n')),
        make_plan(config_, model_.backbone->config(), *model_.compressor, trainable, shape_, data_.steps),
        device_memory(model_.backbone->device()));
  }
}

std::optional<StepRecord> Trainer::step() {
  const auto start = Clock::now();
  const double waited = loader_->waited_seconds();
  const int64_t accumulate = config_.train.accumulate;
  const double share = 1.0 / static_cast<double>(accumulate);
  StepRecord record;
  record.step = step_;
  record.lr = learning_rate(schedule_, step_);
  std::vector<std::string> ids;
  optimizer_.zero_grad();
  for (int64_t micro = 0; micro < accumulate; ++micro) {
    if (stop_requested()) return std::nullopt;
    const Batch batch = loader_->next();
    for (const Example& example : batch.examples) ids.push_back(example.id);
    shape_ = shape_of(batch);
    Tensor loss;
    const Terms terms = forward(batch, loss);
    check_finite(terms, loss, ids);
    // Empty contexts alone give no slots that anything could be learnt from.
    if (batch.context_tokens() > 0 || loss.requires_grad())
      (config_.train.gradient == "mean" ? loss * share : loss).backward();
    record.loss += share * loss.detach().item<double>();
    add_terms(record.terms, terms, share);
    record.context_tokens += batch.context_tokens();
    record.query_tokens += batch.query_tokens();
    record.supervised_tokens += batch.supervised_tokens();
  }
  record.grad_norm = gradient_norm(model_.trainable);
  check_gradients(record, ids);
  if (config_.train.clip > 0) clip_gradients(model_.trainable, record.grad_norm, config_.train.clip);
  optimizer_.step(record.lr);
  const DeviceMemory memory = device_memory(model_.backbone->device());
  record.device_bytes = memory.allocated;
  record.device_peak_bytes = memory.peak;
  record.seconds = seconds_since(start);
  record.data_wait = loader_->waited_seconds() - waited;
  return record;
}

Terms Trainer::forward(const Batch& batch, Tensor& loss) {
  const Autocast autocast(model_.backbone->device(), config_.run.dtype);
  return weighted_loss(model_, objectives_, weights_, batch, loss);
}

void Trainer::stop_non_finite(const std::string& what, OrderedJson report) {
  write_file_atomic(folder_.file("nonfinite.json"), report.dump(1) + "\n");
  throw Error(ErrorKind::kNonFinite,
              fmt::format("step {}: {} (details: {})", step_, what, folder_.file("nonfinite.json")),
              last_checkpoint_.empty()
                  ? "lower train.lr or train.clip; no checkpoint had been written yet"
                  : "lower train.lr or train.clip; the last good checkpoint is " + last_checkpoint_);
}

void Trainer::check_finite(const Terms& terms, const Tensor& loss, const std::vector<std::string>& ids) {
  if (std::isfinite(loss.item<double>())) return;
  OrderedJson report{{"step", step_}, {"examples", ids}};
  std::vector<std::string> values;
  for (const auto& [name, value] : terms) {
    values.push_back(fmt::format("{} = {}", name, value.item<double>()));
    report["terms"][name] = fmt::format("{}", value.item<double>());
  }
  stop_non_finite(
      fmt::format("the loss is not finite (found {}) on examples {}", join(values, ", "), some_of(ids, 4)),
      std::move(report));
}

void Trainer::check_gradients(const StepRecord& record, const std::vector<std::string>& ids) {
  if (std::isfinite(record.grad_norm)) return;
  const std::vector<std::string> tensors = non_finite_gradients(model_.trainable);
  OrderedJson report{{"step", step_}, {"examples", ids}, {"loss", record.loss}, {"gradients", tensors}};
  for (const auto& [name, value] : record.terms) report["terms"][name] = value;
  stop_non_finite(fmt::format("the gradient is not finite (found {} in {}) on examples {}", record.grad_norm,
                              tensors.empty() ? "the norm alone" : some_of(tensors, 4), some_of(ids, 4)),
                  std::move(report));
}

void Trainer::validate() {
  if (!data_.valid_batches) return;
  const Autocast autocast(model_.backbone->device(), config_.run.dtype);
  const Validator validator(config_, data_, model_, objectives_, weights_);
  const ValidationRecord record = validator.measure(step_);
  log_->validation(record);
  if (config_.train.samples > 0) log_->samples(step_, validator.answer(config_.train.samples));
  validated_step_ = step_;
  if (best_.step >= 0 && record.loss >= best_.loss) return;
  best_ = {step_, record.loss};
  if (config_.train.keep_best && config_.train.valid_every > 0) save();
}

void Trainer::save() {
  if (saved_step_ == step_) return;
  CheckpointContents contents;
  contents.step = step_;
  contents.config = dump_config(config_);
  contents.data_fingerprint = fingerprint_;
  if (config_.backbone.train) contents.backbone = model_.backbone->config().to_json();
  contents.best = best_;
  contents.trainable = model_.trainable;
  contents.optimizer = optimizer_.state();
  contents.optimizer.insert(contents.optimizer.end(), model_.state.begin(), model_.state.end());
  last_checkpoint_ = save_checkpoint(folder_.path(), contents, {config_.train.keep, config_.train.keep_best});
  saved_step_ = step_;
}

}  // namespace ctxc
