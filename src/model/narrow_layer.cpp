#include "model/narrow_layer.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/kernels/narrow_rows.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Numbers that one thread should have at least.
constexpr int64_t kGrain = 1 << 15;

const uint16_t* bits(const Tensor& x) {
  return x.defined() ? reinterpret_cast<const uint16_t*>(x.const_data_ptr<at::BFloat16>()) : nullptr;
}
uint16_t* mutable_bits(const Tensor& x) {
  return reinterpret_cast<uint16_t*>(x.mutable_data_ptr<at::BFloat16>());
}
const uint16_t* moved(const uint16_t* start, int64_t count) {
  return start ? start + count : nullptr;
}

Tensor like(const Tensor& x, at::ScalarType type) {
  return at::empty(x.sizes(), x.options().dtype(type));
}

/// Rows shared out among threads.
template <class Work>
void by_rows(int64_t rows, int64_t width, const Work& work) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), work);
}

Tensor sum_with(const Tensor& x, const Tensor& y) {
  const Tensor sum = like(x, at::kFloat);
  const float* from = x.const_data_ptr<float>();
  const uint16_t* add = bits(y);
  float* to = sum.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    narrow::add(from + begin, add + begin, to + begin, end - begin);
  });
  return sum;
}

/// A norm and what its gradient needs.
struct Normed {
  Tensor x, weight, inverse, value;

  Normed(const Tensor& x_PD, const Tensor& norm_D, double eps)
      : x(x_PD.contiguous()),
        weight(norm_D.to(at::kFloat).contiguous()),
        inverse(at::empty({x.size(0)}, x.options())),
        value(like(x, at::kBFloat16)) {
    const int64_t rows = x.size(0), width = x.size(1);
    by_rows(rows, width, [&](int64_t begin, int64_t end) {
      narrow::norm(x.const_data_ptr<float>() + begin * width, weight.const_data_ptr<float>(),
                   mutable_bits(value) + begin * width, inverse.mutable_data_ptr<float>() + begin,
                   end - begin, width, static_cast<float>(eps));
    });
  }
};

/// The gradient of x from up to three of the norm's, which add up.
Tensor norm_gradient(const std::array<Tensor, 3>& pulled, const Tensor& x, const Tensor& weight,
                     const Tensor& inverse) {
  const Tensor grad_x = like(x, at::kFloat);
  const int64_t rows = x.size(0), width = x.size(1);
  by_rows(rows, width, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * width;
    narrow::norm_backward(moved(bits(pulled[0]), first), moved(bits(pulled[1]), first),
                          moved(bits(pulled[2]), first), x.const_data_ptr<float>() + first,
                          weight.const_data_ptr<float>(), inverse.const_data_ptr<float>() + begin,
                          grad_x.mutable_data_ptr<float>() + first, end - begin, width);
  });
  return grad_x;
}

struct NarrowNorm : Function<NarrowNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& x_PD, const Tensor& norm_D, double eps) {
    const Normed normed(x_PD, norm_D, eps);
    context->save_for_backward({normed.x, normed.weight, normed.inverse});
    return normed.value;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    return {norm_gradient({grads[0].contiguous(), {}, {}}, saved[0], saved[1], saved[2]), Tensor(), Tensor()};
  }
};

struct NormedProducts : Function<NormedProducts> {
  static variable_list forward(AutogradContext* context, const Tensor& x_PD, const Tensor& norm_D, double eps,
                               const Tensor& a, const Tensor& b, const Tensor& c) {
    const Normed normed(x_PD, norm_D, eps);
    context->save_for_backward({normed.x, normed.weight, normed.inverse, a, b, c});
    variable_list products;
    for (const Tensor& matrix : {a, b, c})
      if (matrix.numel() > 0) products.push_back(at::linear(normed.value, matrix));
    return products;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    std::array<Tensor, 3> pulled;
    size_t next = 0;
    for (size_t i = 0; i < 3; ++i) {
      if (saved[3 + i].numel() == 0) continue;
      const Tensor& grad = grads[next++];
      if (grad.defined()) pulled[i] = at::mm(grad, saved[3 + i]);
    }
    return {norm_gradient(pulled, saved[0], saved[1], saved[2]),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

Tensor turned(const Tensor& x_PHE, const Tensor& cos, const Tensor& sin, float direction) {
  const Tensor x = x_PHE.contiguous(), y = like(x, at::kBFloat16);
  const int64_t heads = x.size(1), width = x.size(2);
  by_rows(x.size(0), heads * width, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * heads * width, angle = begin * (width / 2);
    narrow::rope(bits(x) + first, cos.const_data_ptr<float>() + angle, sin.const_data_ptr<float>() + angle,
                 mutable_bits(y) + first, end - begin, heads, width, direction);
  });
  return y;
}

struct NarrowRope : Function<NarrowRope> {
  static Tensor forward(AutogradContext* context, const Tensor& x_PHE, const Tensor& cos, const Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned(x_PHE, cos, sin, 1);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    return {turned(grads[0], saved[0], saved[1], -1), Tensor(), Tensor()};
  }
};

struct ProductOnto : Function<ProductOnto> {
  static Tensor forward(AutogradContext* context, const Tensor& x_PD, const Tensor& a_PF,
                        const Tensor& weight) {
    context->save_for_backward({weight});
    return sum_with(x_PD.contiguous(), at::linear(a_PF, weight));
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor weight = context->get_saved_variables()[0];
    return {grads[0], at::mm(grads[0].to(at::kBFloat16), weight), Tensor()};
  }
};

/// silu(gate) * up of contiguous tensors.
Tensor swiglu_rows(const Tensor& gate, const Tensor& up) {
  const Tensor inner = like(gate, at::kBFloat16);
  at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
    narrow::swiglu(bits(gate) + begin, bits(up) + begin, mutable_bits(inner) + begin, end - begin);
  });
  return inner;
}

/// Its gradients {gate, up} from that of its value.
std::array<Tensor, 2> swiglu_gradient(const Tensor& gate, const Tensor& up, const Tensor& pulled) {
  const std::array<Tensor, 2> grad = {like(gate, at::kBFloat16), like(up, at::kBFloat16)};
  at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
    narrow::swiglu_backward(bits(gate) + begin, bits(up) + begin, bits(pulled) + begin,
                            mutable_bits(grad[0]) + begin, mutable_bits(grad[1]) + begin, end - begin);
  });
  return grad;
}

struct NarrowSwiglu : Function<NarrowSwiglu> {
  static Tensor forward(AutogradContext* context, const Tensor& gate_PF, const Tensor& up_PF) {
    const Tensor gate = gate_PF.contiguous(), up = up_PF.contiguous();
    context->save_for_backward({gate, up});
    return swiglu_rows(gate, up);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const auto [gate, up] = swiglu_gradient(saved[0], saved[1], grads[0].contiguous());
    return {gate, up};
  }
};

struct SwigluProductOnto : Function<SwigluProductOnto> {
  static Tensor forward(AutogradContext* context, const Tensor& x_PD, const Tensor& gate_PF,
                        const Tensor& up_PF, const Tensor& weight) {
    const Tensor gate = gate_PF.contiguous(), up = up_PF.contiguous();
    context->save_for_backward({gate, up, weight});
    return sum_with(x_PD.contiguous(), at::linear(swiglu_rows(gate, up), weight));
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const Tensor pulled = at::mm(grads[0].to(at::kBFloat16), saved[2]);
    const auto [gate, up] = swiglu_gradient(saved[0], saved[1], pulled);
    return {grads[0], gate, up, Tensor()};
  }
};

}  // namespace

std::array<Tensor, 3> normed_products(const Tensor& x_PD, const Tensor& norm_D, double eps,
                                      const std::array<Tensor, 3>& weights_FD) {
  std::array<Tensor, 3> given = weights_FD;  // autograd takes no undefined tensor
  for (Tensor& weight : given)
    if (!weight.defined()) weight = at::empty({0}, x_PD.options().dtype(at::kBFloat16));
  const variable_list found = NormedProducts::apply(x_PD, norm_D, eps, given[0], given[1], given[2]);
  std::array<Tensor, 3> products;
  size_t next = 0;
  for (size_t i = 0; i < 3; ++i)
    if (weights_FD[i].defined()) products[i] = found[next++];
  return products;
}

Tensor narrow_rope(const Tensor& x_PHE, const RopeTable& table) {
  return NarrowRope::apply(x_PHE, table.cos, table.sin);
}

Tensor product_onto(const Tensor& x_PD, const Tensor& a_PF, const Tensor& weight_DF) {
  return ProductOnto::apply(x_PD, a_PF, weight_DF);
}

Tensor swiglu_product_onto(const Tensor& x_PD, const Tensor& gate_PF, const Tensor& up_PF,
                           const Tensor& weight_DF) {
  return SwigluProductOnto::apply(x_PD, gate_PF, up_PF, weight_DF);
}

Tensor narrow_norm(const Tensor& x_PD, const Tensor& norm_D, double eps) {
  return NarrowNorm::apply(x_PD, norm_D, eps);
}

Tensor narrow_swiglu(const Tensor& gate_PF, const Tensor& up_PF) {
  return NarrowSwiglu::apply(gate_PF, up_PF);
}

Tensor narrow_adapted(const Tensor& x_PD, const Tensor& weight_FD, const LoraPair* lora) {
  const Tensor y_PF = at::linear(x_PD, weight_FD);
  if (!lora) return y_PF;
  const Tensor low_PR = at::linear(lora_input(x_PD, lora->dropout), lora->a_RD.to(at::kBFloat16));
  return at::addmm(y_PF, low_PR, lora->b_DR.to(at::kBFloat16).t(), 1, lora->scale);
}

}  // namespace ctxc
