#include "train/document_compiler.h"

#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/stop.h"
#include "model/distill.h"
#include "model/generate.h"
#include "train/lr.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Divergence divergence_named(const std::string& name) {
  return name == "mse"          ? Divergence::kLogitMse
         : name == "reverse_kl" ? Divergence::kReverseKl
                                : Divergence::kForwardKl;
}

/// Weights of a term's cross-entropy and divergence.
struct TermWeights {
  double ce = 0, align = 0;
};
TermWeights term_weights(const std::string& loss) {
  if (loss == "ce") return {1, 0};
  if (loss == "mix") return {0.5, 0.5};
  return {0, 1};
}

Memory without_gradients(Memory memory) {
  if (memory.slots_BKD.defined()) memory.slots_BKD = memory.slots_BKD.detach();
  for (KvPair& pair : memory.kv) pair = {pair.key_BGKE.detach(), pair.value_BGKE.detach()};
  return memory;
}

}  // namespace

/// Items read in one step, and what every target position counts.
struct DocumentCompiler::Batch {
  std::vector<const ReadItem*> items;
  std::vector<bool> query;
  DistillRows rows;  ///< all but the student's states

  void add(const ReadItem& item, bool is_query, TermWeights weights) {
    items.push_back(&item);
    query.push_back(is_query);
    const int64_t count = static_cast<int64_t>(item.target.size());
    const std::vector<int64_t> target(item.target.begin(), item.target.end());
    const double share = 1.0 / static_cast<double>(count);
    if (item.top.id_MR.defined()) {
      append(rows.top_id_MR, item.top.id_MR);
      append(rows.top_log_MS, item.top.log_MS);
    } else {
      append(rows.teacher_MD, item.teacher_ND);
    }
    append(rows.target_M, at::tensor(target, at::kLong));
    append(rows.align_M, at::full({count}, weights.align * share, at::kFloat));
    append(rows.ce_M, at::full({count}, weights.ce * share, at::kFloat));
  }
  DistillRows with(const Tensor& student_MD) const {
    DistillRows all = rows;
    all.student_MD = student_MD;
    if (!all.teacher_MD.defined()) all.teacher_MD = student_MD.detach();
    for (Tensor* tensor :
         {&all.teacher_MD, &all.target_M, &all.align_M, &all.ce_M, &all.top_id_MR, &all.top_log_MS})
      if (tensor->defined()) *tensor = tensor->to(student_MD.device());
    return all;
  }

 private:
  static void append(Tensor& all, const Tensor& more) {
    if (!more.defined()) return;
    all = all.defined() ? at::cat({all, more}) : more;
  }
};

DocumentCompiler::DocumentCompiler(const Backbone& backbone, const Prompt& prompt, PerDocument& method,
                                   const Document& document, const QueryDraw& queries,
                                   CompileSettings settings)
    : backbone_(backbone),
      method_(method),
      document_(document),
      settings_(std::move(settings)),
      items_(backbone, prompt, document, method.recipe(), queries,
             {.seed = settings_.seed,
              .max_new = settings_.max_new,
              .probes = 8,
              .continuations = settings_.continuations}),
      head_VD_(backbone.head_VD()) {}

int64_t DocumentCompiler::steps_in_all() const {
  if (settings_.steps > 0) return settings_.steps;
  const double items = settings_.epochs * static_cast<double>(items_.epoch_items());
  const double step = static_cast<double>(settings_.batch * settings_.accumulate);
  return std::max<int64_t>(1, std::llround(std::ceil(items / step)));
}

HeldOutItems DocumentCompiler::held_out() {
  HeldOutItems items;
  for (int64_t index : items_.held_out()) items.queries.push_back(items_.taught(index));
  for (int64_t index : items_.probes()) items.probes.push_back(items_.item(index));
  return items;
}

CompileNumbers DocumentCompiler::measure(const Memory& memory) {
  return measure_held_out(backbone_, memory, held_out(), head_VD_, method_.recipe().tau);
}

std::vector<DocumentCompiler::Batch> DocumentCompiler::next_batches(double lambda, ItemStream& pieces,
                                                                    ItemStream& queries) {
  const CompileRecipe& recipe = method_.recipe();
  const bool recon = recipe.recon.loss != "none", align = lambda > 0;
  const int64_t size = settings_.batch * settings_.accumulate;
  const int64_t wanted = !align ? size : recon ? size / 2 : 0;
  const std::vector<int64_t> asked = recon ? pieces.take(wanted) : std::vector<int64_t>{};
  const std::vector<int64_t> random = align ? queries.take(size - wanted) : std::vector<int64_t>{};
  const TermWeights recon_term = term_weights(recipe.recon.loss);
  // Shares of the step, so that its gradient does not depend on how it is cut into batches.
  const double recon_share = 1.0 / static_cast<double>(std::max<size_t>(1, asked.size()));
  const bool answers = recipe.align_loss == "ce";
  const double align_share = lambda / static_cast<double>(std::max<size_t>(1, random.size()));
  const size_t batch = (asked.size() + random.size() + static_cast<size_t>(settings_.accumulate) - 1) /
                       static_cast<size_t>(settings_.accumulate);
  std::vector<Batch> batches;
  const auto add = [&](int64_t index, bool query, TermWeights weights) {
    if (batches.empty() || batches.back().items.size() == batch) batches.emplace_back();
    // Every item of a batch gets its teacher rows, so that the rows of all can stand in one matrix.
    batches.back().add(items_.trained_on(index), query, weights);
  };
  for (int64_t index : asked)
    add(index, false, {recon_term.ce * recon_share, recon_term.align * recon_share});
  for (int64_t index : random) add(index, true, {answers ? align_share : 0, answers ? 0 : align_share});
  return batches;
}

void DocumentCompiler::add_gradients(const Batch& batch, CompileStep& record) {
  const CompileRecipe& recipe = method_.recipe();
  // The same key for all batches of a step: they read one memory.
  const Memory memory =
      method_.memory(backbone_, {.seed = settings_.seed, .step = record.step, .micro = 0, .training = true});
  const std::optional<Adapters> coupled = recipe.coupled ? method_.adapters() : std::nullopt;
  const Tensor student_MD = predicting_states(backbone_, memory, batch.items, coupled ? &*coupled : nullptr);
  const DistillLoss result =
      distill_loss(batch.with(student_MD), head_VD_, divergence_named(recipe.align_loss), recipe.tau);
  const double loss = result.loss.item<double>();
  CTXC_CHECK(std::isfinite(loss), ErrorKind::kNonFinite, "lower train.lr and compressor.buffers.lr",
             "step {}: the loss is not finite (found {})", record.step, loss);
  result.loss.backward();
  record.loss += loss;
  const Tensor align = item_means(result.align_M, batch.items), nll = item_means(result.nll_M, batch.items);
  for (size_t i = 0; i < batch.items.size(); ++i)
    (batch.query[i] ? record.align : record.recon) +=
        (batch.query[i] ? align : nll)[static_cast<int64_t>(i)].item<double>();
}

CompileStep DocumentCompiler::step(double lambda, const std::vector<Batch>& batches,
                                   std::vector<AdamW>& optimizers, int64_t index, int64_t of) {
  const auto start = Clock::now();
  const std::vector<ParameterGroup> groups = method_.groups();
  for (AdamW& optimizer : optimizers) optimizer.zero_grad();
  CompileStep record{.step = index, .lambda = lambda};
  int64_t queries = 0, pieces = 0;
  for (const Batch& batch : batches) {
    add_gradients(batch, record);
    for (const bool query : batch.query) ++(query ? queries : pieces);
  }
  record.align /= static_cast<double>(std::max<int64_t>(1, queries));
  record.recon /= static_cast<double>(std::max<int64_t>(1, pieces));

  NamedTensors all;
  for (const ParameterGroup& group : groups)
    all.insert(all.end(), group.tensors.begin(), group.tensors.end());
  record.grad_norm = gradient_norm(all);
  CTXC_CHECK(std::isfinite(record.grad_norm), ErrorKind::kNonFinite,
             "lower train.lr and compressor.buffers.lr", "step {}: the gradient is not finite (found {})",
             index, record.grad_norm);
  if (settings_.clip > 0) clip_gradients(all, record.grad_norm, settings_.clip);
  for (size_t i = 0; i < groups.size(); ++i) {
    const LrSchedule schedule{groups[i].lr > 0 ? groups[i].lr : settings_.lr, settings_.schedule,
                              warmup_steps(settings_.warmup, of), of, settings_.final_lr};
    optimizers[i].step(learning_rate(schedule, index));
  }
  record.seconds = seconds_since(start);
  return record;
}

bool DocumentCompiler::optimise(double lambda, const CompileWatcher& watcher, StateSelection& selection,
                                CompileOutcome& outcome) {
  method_.begin(backbone_, document_);
  std::vector<AdamW> optimizers;
  for (const ParameterGroup& group : method_.groups())
    optimizers.emplace_back(group.tensors, settings_.adamw);
  ItemStream pieces([this](int64_t epoch) { return items_.pieces_of(epoch); });
  ItemStream queries([this](int64_t epoch) { return items_.queries_of(epoch); });
  ProgressWatch watch(method_.recipe().patience);
  const int64_t of = optimizers.empty() ? 0 : steps_in_all();
  const auto check = [&](int64_t done) {
    const at::NoGradGuard no_grad;
    outcome.last = {done, lambda, {}, without_gradients(method_.memory(backbone_))};
    outcome.last.numbers = measure(outcome.last.memory);
    if (settings_.keep_parameters)
      for (const ParameterGroup& group : method_.groups())
        for (const auto& [name, tensor] : group.tensors)
          outcome.last.parameters[group.name].emplace(name, tensor.detach().clone());
    if (done == 0) outcome.untrained = outcome.last.numbers;
    selection.offer(outcome.last);
    watcher.check({done, lambda, outcome.last.numbers});
    return watch.check(outcome.last.numbers);
  };
  check(0);
  for (int64_t index = 0; index < of; ++index) {
    if (stop_requested()) return false;
    const CompileStep record = step(lambda, next_batches(lambda, pieces, queries), optimizers, index, of);
    ++outcome.steps;
    outcome.step_seconds += record.seconds;
    watcher.step(record, of);
    const int64_t done = index + 1;
    const bool due = settings_.check_every > 0 && done % settings_.check_every == 0;
    if ((due || done == of) && check(done)) break;
  }
  return true;
}

void DocumentCompiler::reconstruct(const Memory& memory, CompileOutcome& outcome) const {
  const int64_t chunk = method_.recipe().recon.chunk;
  const int64_t count = std::min<int64_t>(document_.length(), chunk > 0 ? chunk : 1024);
  GenerateOptions options;
  options.max_new_tokens = count;
  const Tokens said = generate(backbone_, memory, {0}, {items_.repeat_request()}, options).tokens[0];
  int64_t equal = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool same = i < static_cast<int64_t>(said.size()) &&
                      said[static_cast<size_t>(i)] == document_.context[static_cast<size_t>(i)];
    equal += same;
    if (!same && outcome.recon_first_error < 0) outcome.recon_first_error = i;
  }
  outcome.recon_tokens = count;
  outcome.recon_accuracy = static_cast<double>(equal) / static_cast<double>(count);
}

std::optional<CompileOutcome> DocumentCompiler::run(const CompileWatcher& watcher) {
  const auto start = Clock::now();
  CompileOutcome outcome;
  method_.begin(backbone_, document_);
  items_.answer(/*all=*/!method_.groups().empty(), watcher.answered);
  outcome.teacher_seconds = seconds_since(start);
  outcome.none = measure(kv_memory(document_.first_rows(document_.prefix)));
  outcome.full = measure(items_.teacher());
  StateSelection selection;
  for (double lambda : method_.recipe().lambdas())
    if (!optimise(lambda, watcher, selection, outcome)) return std::nullopt;
  outcome.chosen = selection.chosen();
  reconstruct(outcome.chosen.memory, outcome);
  outcome.seconds = seconds_since(start);
  return outcome;
}

CompileNumbers measure_held_out(const Backbone& backbone, const Memory& memory, const HeldOutItems& items,
                                const Tensor& head_VD, double tau) {
  const at::NoGradGuard no_grad;
  const auto found = [&](const std::vector<ReadItem>& asked) {
    std::vector<const ReadItem*> pointers;
    for (const ReadItem& item : asked) pointers.push_back(&item);
    return measure_items(backbone, memory, pointers, head_VD, tau);
  };
  CompileNumbers numbers;
  if (!items.queries.empty()) numbers.kl_q = found(items.queries).kl_N.mean().item<double>();
  // Probes are equally long.
  if (!items.probes.empty()) numbers.nll_m = found(items.probes).nll_N.mean().item<double>();
  return numbers;
}

}  // namespace ctxc
