#include "model/blocks/transport.h"

#include "model/blocks/full_precision.h"
#include "model/numerics.h"

namespace ctxc {
namespace {

Tensor unit_rows(const Tensor& x) {
  return x / x.norm(2, -1, /*keepdim=*/true).clamp_min(1e-12);
}

/// [P + 1, ...] by token to [N, W, ...].
Tensor by_window(const Tensor& values, const WindowGrid& grid) {
  auto shape = values.sizes().vec();
  shape[0] = grid.token_NW.size(1);
  shape.insert(shape.begin(), grid.windows());
  return values.index_select(0, grid.token_NW.flatten()).view(shape);
}

Tensor source_mass(const Tensor& padded_PD, const WindowGrid& grid, const WidthParameters& parameters,
                   const WidthOptions& options) {
  const Tensor real_NW = grid.real_NW.to(at::kFloat);
  const Tensor uniform_NW = real_NW / real_NW.sum(1, true).clamp_min(1e-6);
  if (!parameters.mass_prj) return uniform_NW;
  const Tensor score_P = linear(layer_norm(padded_PD, *parameters.mass_ln), *parameters.mass_prj).squeeze(1);
  const FullPrecision full;
  const Tensor score_NW =
      by_window(score_P.to(at::kFloat), grid).masked_fill(grid.real_NW.logical_not(), -1e9);
  const Tensor p_NW = (score_NW / options.source_temperature).softmax(1);
  const Tensor mass_NW = (p_NW * (1 - options.source_floor) + uniform_NW * options.source_floor) * real_NW;
  return mass_NW / mass_NW.sum(1, true).clamp_min(1e-6);
}

}  // namespace

Tensor run_means(const Tensor& values_PD, const WindowGrid& grid) {
  const Tensor sums = at::zeros({grid.count_NK.numel(), values_PD.size(1)}, values_PD.options())
                          .index_add(0, grid.slot_P, values_PD);
  return sums / grid.count_NK.reshape({-1, 1}).clamp_min(1e-6);
}

WidthResult transport_width(const Tensor& fused_PD, const WindowGrid& grid, const WidthParameters& parameters,
                            const WidthOptions& options) {
  const int64_t n = grid.windows(), k = grid.count_NK.size(1);
  const Tensor padded_PD = at::cat({fused_PD, at::zeros({1, fused_PD.size(1)}, fused_PD.options())});
  const Tensor anchors = run_means(fused_PD, grid);
  const Tensor metric =
      linear(layer_norm(at::cat({padded_PD, anchors}), *parameters.metric_ln), *parameters.metric_prj);
  const Tensor values_PD = linear(layer_norm(padded_PD, *parameters.value_ln), *parameters.value_prj);

  WidthResult result;
  result.a_NW = source_mass(padded_PD, grid, parameters, options);
  const FullPrecision full;
  const Tensor unit = unit_rows(metric.to(at::kFloat));
  const Tensor token_NWM = by_window(unit.slice(0, 0, padded_PD.size(0)), grid);
  const Tensor slot_NKM = unit.slice(0, padded_PD.size(0)).view({n, k, unit.size(1)});
  result.cost_NWK = 1 - at::bmm(token_NWM, slot_NKM.transpose(1, 2));
  const Tensor valid_NK = grid.count_NK.gt(0).to(at::kFloat);
  result.b_NK = valid_NK / valid_NK.sum(1, true).clamp_min(1);
  result.plan_NWK =
      sinkhorn_plan(result.cost_NWK, result.a_NW, result.b_NK, options.iterations, options.epsilon);
  result.slots_NKD = at::bmm(result.plan_NWK.transpose(1, 2), by_window(values_PD.to(at::kFloat), grid)) /
                     result.b_NK.unsqueeze(2).clamp_min(1e-6);
  return result;
}

}  // namespace ctxc
