// The record `metrics` of a compiled memory: its validation numbers beside those of no context, of the
// untrained buffers and of the full context, the gates it fails (lcc.md section 4), and what it cost.
#pragma once
#include <string>
#include <vector>

#include "core/json.h"
#include "train/document_compiler.h"

namespace ctxc {

/// Gates that a memory does not pass, with what to try: NLL_m below that of no context, KL_q not above the
/// larger of no context's and the untrained buffers'.
std::vector<std::string> failed_gates(const CompileNumbers& memory, const CompileNumbers& none,
                                      const CompileNumbers& untrained);

/// Of one document. `stored`: the numbers of the memory as it is written.
OrderedJson compile_metrics(const CompileOutcome& outcome, const CompileNumbers& stored);

/// Of segments joined to one memory: their records under `segments`, the joined memory's numbers (means over
/// what the segments were measured on), means of the references, sums of the costs. Every gate that a segment
/// failed is one of the memory's; the joined memory has the one on NLL_m. Its KL is from teachers that read
/// one segment each, so it has no bound.
OrderedJson joined_metrics(const std::vector<OrderedJson>& segments, const CompileNumbers& joined);

}  // namespace ctxc
