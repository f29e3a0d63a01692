// Memory artifacts made from others: stored in another type, moved to other positions, joined, and turned
// from embeddings into keys and values.
#pragma once
#include <string>
#include <vector>

#include "model/memory_artifact.h"

namespace ctxc {

/// The memory as a reader of the stored file will see it. `type`: float32 | float16 | bfloat16 | int8 (kind
/// kv alone; Error kUsage). `info.storage` states the type and the relative error of the rows it causes.
MemoryArtifact stored_as(const MemoryArtifact& memory, const std::string& type);

/// All keys `offset` positions later, exactly (values do not know positions). Kind embeds stays as it is.
MemoryArtifact moved_by(const MemoryArtifact& memory, int64_t offset);

/// One header, then the slots of all memories one after another. The keys of each are turned from where they
/// stood to where they stand now, so the result is again a memory at positions 0..N-1; what a slot had read
/// stays what it was. Error kInput naming every difference in kind, model, tokenizer, header or prompt.
/// `names` are used in messages.
MemoryArtifact compose(const std::vector<MemoryArtifact>& memories, const std::vector<std::string>& names);

/// Kind embeds -> kv: one prefill of its rows on the base they were made for.
MemoryArtifact prefilled(const MemoryArtifact& memory, const Backbone& backbone);

}  // namespace ctxc
