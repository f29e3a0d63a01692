// Width-wise transmission of ComprExIT (arXiv 2602.03784; comprexit.md section 3): inside each window an
// entropic transport plan moves the token anchors x onto the runs' slots.
//   a_j = mean of the run's x;  C_ij = 1 - cos(Wm LN(x_i) + bm, Wm LN(a_j) + bm)
//   source  p = softmax(wa . LN(x_i) / tau),  a = (1 - floor) p + floor / count;  target b uniform over valid
//   slots P = sinkhorn(C, a, b);  z_j = sum_i P_ij (Wv LN(x_i) + bv) / b_j
// Everything token-wise is computed on the packed tokens and one row of zeros, which stands for padding.
#pragma once
#include "model/blocks/affine.h"
#include "model/blocks/window_grid.h"

namespace ctxc {

struct WidthParameters {
  std::shared_ptr<Affine> metric_ln, metric_prj, value_ln, value_prj;
  std::shared_ptr<Affine> mass_ln, mass_prj;  ///< empty: uniform source mass
};

struct WidthOptions {
  int64_t iterations = 30;
  double epsilon = 0.1, source_floor = 0.05, source_temperature = 1;
};

struct WidthResult {
  Tensor slots_NKD;  ///< float32; 0 where a run has no token
  Tensor cost_NWK, a_NW, b_NK, plan_NWK;
};
WidthResult transport_width(const Tensor& fused_PD, const WindowGrid& grid, const WidthParameters& parameters,
                            const WidthOptions& options);

/// Mean of each run's rows of `values_PD`, [N*K, D]; 0 for runs without tokens.
Tensor run_means(const Tensor& values_PD, const WindowGrid& grid);

}  // namespace ctxc
