// peer: a ComprExIT checkpoint as a directory of the ComprExIT repository (comprexit.md section 11).
#include "core/error.h"
#include "eval/exporter.h"
#include "model/artifact.h"

namespace ctxc {
namespace {

int64_t context_length(const LoadedMethod& method) {
  if (method.padded_length > 0) return method.padded_length;
  const Yaml* data = method.config.is_null() ? nullptr : method.config.find("data");
  const Yaml* tokens = data ? data->find("context_tokens") : nullptr;
  return tokens && !tokens->is_null() ? std::stoll(tokens->scalar()) : 512;
}

void write_peer(const ExportRequest& request) {
  CTXC_CHECK(request.dtype.empty(), ErrorKind::kUsage, "leave --dtype out",
             "the target 'peer' writes every tensor as it is");
  const LoadedMethod method = load_method(request.in, request.model);
  save_peer_checkpoint(request.out, *method.backbone, *method.compressor, method.section,
                       context_length(method), method.tokenizer_path);
}

CTXC_REGISTER_EXPORTER(peer, "peer", true, write_peer, "a checkpoint directory of the ComprExIT repository");

}  // namespace
}  // namespace ctxc
