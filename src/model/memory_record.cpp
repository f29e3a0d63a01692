#include "model/memory_record.h"

#include "core/error.h"
#include "core/text.h"
#include "model/memory_artifact.h"
#include "model/weights.h"

namespace ctxc {
namespace {

/// Header rows of other tokens or weights differ by their own size; rounding to int8 by a few percent of it.
constexpr double kHeaderTolerance = 0.1;

double relative_distance(const Tensor& found, const Tensor& expected) {
  const Tensor wide = expected.to(at::kDouble);
  return (found.to(at::kDouble) - wide).norm().item<double>() / std::max(wide.norm().item<double>(), 1e-30);
}

/// How far the stored header rows are from those of header_token_ids on this base.
double header_distance(const MemoryArtifact& memory, const Tokens& header, const Backbone& backbone) {
  const int64_t count = static_cast<int64_t>(header.size());
  if (memory.kind == "embeds") {
    const std::vector<int64_t> ids(header.begin(), header.end());
    return relative_distance(memory.embeds_ND.narrow(0, 0, count),
                             backbone.embed(at::tensor(ids, at::kLong)).cpu());
  }
  const std::vector<KvPair> kv = read_kv(backbone, header);
  double worst = 0;
  for (size_t layer = 0; layer < kv.size(); ++layer) {
    const auto at_layer = [&](const Tensor& rows_LGNE) {
      return rows_LGNE[static_cast<int64_t>(layer)].narrow(1, 0, count);
    };
    worst = std::max({worst, relative_distance(at_layer(memory.k_LGNE), kv[layer].key_BGKE[0].cpu()),
                      relative_distance(at_layer(memory.v_LGNE), kv[layer].value_BGKE[0].cpu())});
  }
  return worst;
}

/// The recorded header where it is usable on this base; its faults otherwise.
Tokens header_of(const Json& info, const Backbone& backbone, const Tokenizer& tokenizer, int64_t rows,
                 std::vector<std::string>& problems) {
  const Json ids = json_at<Json>(info, "header_token_ids", "memory artifact");
  const int64_t said = json_at<int64_t>(info, "n_header", "memory artifact");
  Tokens header;
  for (const Json& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= backbone.config().vocab_size ||
        !tokenizer.contains(static_cast<TokenId>(id.get<int64_t>()))) {
      problems.push_back(fmt::format("header_token_ids ({} is no token here)", id.dump()));
      return {};
    }
    header.push_back(static_cast<TokenId>(id.get<int64_t>()));
  }
  if (static_cast<int64_t>(header.size()) != said || said > rows)
    problems.push_back(
        fmt::format("header_token_ids (found {} ids, expected n_header = {})", header.size(), said));
  return problems.empty() ? header : Tokens{};
}

}  // namespace

/// The `model` record of a backbone.
OrderedJson model_record(const Backbone& backbone) {
  const LlamaConfig& config = backbone.config();
  const OrderedJson full = config.to_json();
  OrderedJson record;
  record["name_or_path"] = backbone.path();
  record["architecture"] = "LlamaForCausalLM";
  record["num_hidden_layers"] = config.num_layers;
  record["num_key_value_heads"] = config.num_kv_heads;
  record["head_dim"] = config.head_dim;
  record["hidden_size"] = config.hidden_size;
  record["vocab_size"] = config.vocab_size;
  record["rope_theta"] = config.rope_theta;
  record["rope_scaling"] = full.contains("rope_scaling") ? full["rope_scaling"] : OrderedJson(nullptr);
  record["weights_fingerprint"] = backbone.path().empty() ? "" : weights_fingerprint(backbone.path());
  record["dtype"] = std::string(name_of(dtype_of(backbone.weights().begin()->second.scalar_type())));
  return record;
}

std::vector<std::string> record_differences(const Json& found, const Json& expected, bool with_weights) {
  std::vector<std::string> problems;
  for (const char* key : {"architecture", "num_hidden_layers", "num_key_value_heads", "head_dim",
                          "hidden_size", "vocab_size", "rope_theta", "rope_scaling", "weights_fingerprint"}) {
    if (!with_weights && std::string(key) == "weights_fingerprint") continue;
    const Json a = found.contains(key) ? found[key] : Json(nullptr);
    const Json b = expected.contains(key) ? expected[key] : Json(nullptr);
    if (a != b) problems.push_back(fmt::format("{} (found {}, expected {})", key, a.dump(), b.dump()));
  }
  return problems;
}

Tensor recorded_frequencies(const Json& record, const std::string& origin) {
  LlamaConfig config;
  config.head_dim = json_at<int64_t>(record, "head_dim", origin);
  config.rope_theta = json_at<double>(record, "rope_theta", origin);
  CTXC_CHECK(config.head_dim > 0 && config.head_dim % 2 == 0, ErrorKind::kInput, "the file is damaged",
             "{}: head_dim is not an even number above 0 (found {})", origin, config.head_dim);
  if (record.contains("rope_scaling") && !record["rope_scaling"].is_null()) {
    const Json scaling = record["rope_scaling"];
    const std::string where = origin + ": rope_scaling";
    config.rope_scaling = RopeScaling{json_at<double>(scaling, "factor", where),
                                      json_at<double>(scaling, "low_freq_factor", where),
                                      json_at<double>(scaling, "high_freq_factor", where),
                                      json_at<int64_t>(scaling, "original_max_position_embeddings", where)};
  }
  return rope_inverse_frequencies(config);
}

void check_memory_fits(const MemoryArtifact& memory, const Backbone& backbone, const Tokenizer& tokenizer,
                       bool force) {
  const Json info = memory.info;
  std::vector<std::string> problems =
      record_differences(json_at<Json>(info, "model", "memory artifact"), model_record(backbone), !force);
  const std::string tokens = json_or<std::string>(info, "tokenizer_sha256", "", "memory artifact");
  if (tokens != tokenizer.fingerprint())
    problems.push_back(
        fmt::format("tokenizer_sha256 (found {}, expected {})", tokens, tokenizer.fingerprint()));
  // Rows can only be compared where everything else fits.
  const Tokens header = header_of(info, backbone, tokenizer, memory.rows(), problems);
  if (problems.empty() && !header.empty() && !force) {
    const double distance = header_distance(memory, header, backbone);
    if (distance > kHeaderTolerance)
      problems.push_back(fmt::format(
          "header rows (relative distance {:.2f} from those of header_token_ids {} on this base, "
          "expected at most {})",
          distance, json_at<Json>(info, "header_token_ids", "memory artifact").dump(), kHeaderTolerance));
  }
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "use the model and tokenizer the memory was made for",
             "the memory artifact does not fit this model: {}", join(problems, "; "));
}

std::vector<KvPair> read_kv(const Backbone& backbone, const Tokens& tokens) {
  const at::NoGradGuard no_grad;
  const int64_t length = static_cast<int64_t>(tokens.size());
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  PackedRows rows;
  rows.embeds_PD = backbone.embed(at::tensor(ids, at::kLong));
  rows.positions_P = at::arange(length, at::kLong);
  rows.segments = {{.length = length, .mask_TS = {}, .prefix_row = -1}};
  return backbone.forward(rows, {.collect = {}, .layers = 0, .keep_kv = true, .adapters = nullptr}).kv;
}

}  // namespace ctxc
