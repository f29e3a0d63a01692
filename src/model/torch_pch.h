// Precompiled for every target that uses LibTorch: ATen, autograd and the module base, not the whole of
// torch.h.
#pragma once
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/api/include/torch/types.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/module.h>
#include <nlohmann/json.hpp>
