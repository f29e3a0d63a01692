#include "train/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <fmt/ranges.h>

#include <cmath>

#include "core/error.h"
#include "core/text.h"

namespace ctxc {
namespace {

std::string shape_text(const Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

std::vector<Tensor> gradients(const NamedTensors& parameters) {
  std::vector<Tensor> result;
  for (const auto& [name, parameter] : parameters)
    if (parameter.grad().defined()) result.push_back(parameter.grad());
  return result;
}

}  // namespace

AdamW::AdamW(NamedTensors parameters, AdamWOptions options)
    : parameters_(std::move(parameters)), options_(std::move(options)) {
  std::set<std::string> unknown = options_.undecayed;
  for (const auto& [name, parameter] : parameters_) {
    CTXC_CHECK(parameter.scalar_type() == at::kFloat, ErrorKind::kInternal, "",
               "optimizer: {} is not float32 (found {})", name, c10::toString(parameter.scalar_type()));
    exp_avg_.push_back(at::zeros_like(parameter, at::MemoryFormat::Contiguous).detach());
    exp_avg_sq_.push_back(at::zeros_like(parameter, at::MemoryFormat::Contiguous).detach());
    steps_.push_back(at::zeros({}, parameter.options().requires_grad(false)));
    decayed_.push_back(parameter.dim() >= 2 && !options_.undecayed.count(name));
    unknown.erase(name);
  }
  CTXC_CHECK(unknown.empty(), ErrorKind::kInternal, "", "optimizer: no parameter to leave undecayed: {}",
             fmt::join(unknown, ", "));
}

void AdamW::step(double lr) {
  const at::NoGradGuard no_grad;
  for (const bool decayed : {true, false}) {
    std::vector<Tensor> values, grads, exp_avg, exp_avg_sq, steps;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor& parameter = parameters_[i].second;
      if (!parameter.grad().defined() || decayed_[i] != decayed) continue;
      steps_[i].add_(1);
      values.push_back(parameter);
      grads.push_back(parameter.grad().contiguous());
      exp_avg.push_back(exp_avg_[i]);
      exp_avg_sq.push_back(exp_avg_sq_[i]);
      steps.push_back(steps_[i]);
    }
    if (values.empty()) continue;
    at::_fused_adamw_(values, grads, exp_avg, exp_avg_sq, {}, steps, lr, options_.beta1, options_.beta2,
                      decayed ? options_.weight_decay : 0.0, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void AdamW::zero_grad() {
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad().reset();
}

NamedTensors AdamW::state() const {
  NamedTensors result;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::string& name = parameters_[i].first;
    result.emplace_back(name + ".exp_avg", exp_avg_[i]);
    result.emplace_back(name + ".exp_avg_sq", exp_avg_sq_[i]);
    result.emplace_back(name + ".step", steps_[i]);
  }
  return result;
}

void AdamW::load_state(const std::map<std::string, Tensor>& state, const std::string& origin) {
  copy_into(this->state(), state, origin);
}

double gradient_norm(const NamedTensors& parameters) {
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> grads = gradients(parameters);
  if (grads.empty()) return 0;
  return at::stack(at::_foreach_norm(grads, 2)).to(at::kDouble).norm().item<double>();
}

void clip_gradients(const NamedTensors& parameters, double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return;
  const at::NoGradGuard no_grad;
  std::vector<Tensor> grads = gradients(parameters);
  at::_foreach_mul_(grads, factor);
}

std::vector<std::string> non_finite_gradients(const NamedTensors& parameters) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : parameters)
    if (parameter.grad().defined() && !parameter.grad().isfinite().all().item<bool>()) names.push_back(name);
  return names;
}

void copy_into(const NamedTensors& parameters, const std::map<std::string, Tensor>& values,
               const std::string& origin) {
  const at::NoGradGuard no_grad;
  std::map<std::string, Tensor> rest = values;
  std::vector<std::string> problems;
  for (const auto& [name, parameter] : parameters) {
    const auto found = rest.find(name);
    if (found == rest.end()) {
      problems.push_back(fmt::format("missing {} {}", name, shape_text(parameter)));
      continue;
    }
    if (found->second.sizes() != parameter.sizes())
      problems.push_back(fmt::format("{}: shape (found {}, expected {})", name, shape_text(found->second),
                                     shape_text(parameter)));
    rest.erase(found);
  }
  for (const auto& [name, value] : rest)
    problems.push_back(fmt::format("unexpected {} {}", name, shape_text(value)));
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "the checkpoint belongs to another configuration",
             "{}: tensors do not fit: {}", origin, join(problems, "; "));
  for (const auto& [name, parameter] : parameters) Tensor(parameter).copy_(values.at(name));
}

}  // namespace ctxc
