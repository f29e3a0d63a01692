// The `model` record of a memory artifact: what of a base its rows depend on.
#pragma once
#include "core/json.h"
#include "model/backbone.h"

namespace ctxc {

OrderedJson model_record(const Backbone& backbone);
/// "weights_fingerprint (found …, expected …)" for every key in which the records of two bases differ.
std::vector<std::string> record_differences(const Json& found, const Json& expected, bool with_weights);
/// RoPE inverse frequencies of the recorded base, without its weights. Error kInput.
Tensor recorded_frequencies(const Json& record, const std::string& origin);

}  // namespace ctxc
