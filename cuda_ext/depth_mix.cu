#include "cuda_ext/depth_mix.cuh"

#include "cuda_ext/dispatch.cuh"

namespace ctxc::cuda {
namespace {

template <class T>
bool states_can_pack(const StateList& states, int width) {
  bool all = true;
  for (int l = 0; l < states.count; ++l) all = all && can_pack<T>(width, states.state[l]);
  return all;
}

template <class... Parameters, class... Arguments>
int start(void (*kernel)(Parameters...), int64_t tokens, Stream stream, const Arguments&... arguments) {
  const int64_t blocks = tokens < multiprocessors() ? tokens : multiprocessors();
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kDepthThreads), 0, cuda_stream(stream),
                arguments...);
}

bool nothing(const StateList& states, int64_t tokens, int width) {
  return states.count == 0 || tokens == 0 || width == 0;
}

}  // namespace

int weighted_states(Type type, const StateList& states, const void* weights, int64_t weight_stride, void* out,
                    int64_t tokens, int width, Stream stream) {
  if (nothing(states, tokens, width)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    const bool packs = states_can_pack<T>(states, width) && can_pack<T>(width, out);
    return start(packs ? &weighted_states_kernel<T, kPackOf<T>> : &weighted_states_kernel<T, 1>, tokens,
                 stream, states, static_cast<const Wide<T>*>(weights), weight_stride,
                 static_cast<Wide<T>*>(out), tokens, width);
  });
}

int state_products(Type type, const StateList& states, const void* g, void* out, int64_t tokens, int width,
                   Stream stream) {
  if (nothing(states, tokens, width)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    const bool packs = states_can_pack<T>(states, width) && can_pack<T>(width, g);
    return start(packs ? &state_products_kernel<T, kPackOf<T>> : &state_products_kernel<T, 1>, tokens, stream,
                 states, static_cast<const Wide<T>*>(g), static_cast<Wide<T>*>(out), tokens, width);
  });
}

int depth_gate_mix(Type type, const StateList& states, const void* pull, const void* offset, double scale,
                   void* weights, void* mixed, int64_t tokens, int width, Stream stream) {
  if (nothing(states, tokens, width)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    using A = Wide<T>;
    const bool packs = states_can_pack<T>(states, width) && can_pack<T>(width, pull, mixed);
    return start(packs ? &depth_gate_mix_kernel<T, kPackOf<T>> : &depth_gate_mix_kernel<T, 1>, tokens, stream,
                 states, static_cast<const A*>(pull), static_cast<const A*>(offset), static_cast<A>(scale),
                 static_cast<A*>(weights), static_cast<A*>(mixed), tokens, width);
  });
}

int depth_gate_mix_backward(Type type, const StateList& states, const void* grad_mixed,
                            const void* grad_weights, const void* weights, double scale, void* grad_offset,
                            void* grad_pull, int64_t tokens, int width, Stream stream) {
  if (nothing(states, tokens, width)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    using A = Wide<T>;
    const bool packs = states_can_pack<T>(states, width) && can_pack<T>(width, grad_mixed, grad_pull);
    return start(
        packs ? &depth_gate_mix_backward_kernel<T, kPackOf<T>> : &depth_gate_mix_backward_kernel<T, 1>,
        tokens, stream, states, static_cast<const A*>(grad_mixed), static_cast<const A*>(grad_weights),
        static_cast<const A*>(weights), static_cast<A>(scale), static_cast<A*>(grad_offset),
        static_cast<A*>(grad_pull), tokens, width);
  });
}

}  // namespace ctxc::cuda
