// Checkpoints of a run, written so that a crash at any moment leaves the previous one whole:
//   <run>/checkpoints/step-00000200/{trainable.safetensors, optimizer.safetensors, state.json}
//   <run>/latest                     the name of the newest folder
// The folder is built under another name, state.json (with the SHA-256 of the other files) last, and then
// renamed. Tensor names: compressor.<name>, and backbone.<Hugging Face name> where the base trains.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "train/optimizer.h"

namespace ctxc {

constexpr int64_t kCheckpointFormat = 1;

/// The validation loss a run keeps its best checkpoint by.
struct BestSoFar {
  int64_t step = -1;  ///< -1: none yet
  double loss = 0;
};

struct CheckpointContents {
  int64_t step = 0;    ///< steps done
  std::string config;  ///< resolved configuration, YAML
  std::string data_fingerprint;
  OrderedJson backbone;  ///< config.json of the base where it trains, else null
  BestSoFar best;
  NamedTensors trainable, optimizer;
};

/// A checkpoint whose files match their hashes.
struct CheckpointFolder {
  std::string path;
  int64_t step = 0;
  std::string config, data_fingerprint;
  BestSoFar best;
  std::map<std::string, Tensor> trainable() const;
  std::map<std::string, Tensor> optimizer() const;
};

struct Retention {
  int64_t keep = 2;  ///< newest
  bool keep_best = true;
};

/// Writes a checkpoint, points `latest` at it and drops what retention does not keep. Error kDisk (nothing
/// half-written stays, older checkpoints are untouched). Returns its folder.
std::string save_checkpoint(const std::string& run_folder, const CheckpointContents& contents,
                            const Retention& retention);

/// Reads and verifies one checkpoint folder. Error kInput says which file is damaged.
CheckpointFolder open_checkpoint(const std::string& folder);

/// The newest undamaged checkpoint of a run; damaged ones are skipped with a warning that names both. Nothing
/// if the run has none; Error kInput if all are damaged.
std::optional<CheckpointFolder> newest_checkpoint(const std::string& run_folder);

/// `path` as a checkpoint folder, or as a run folder (its newest checkpoint). Error kInput.
CheckpointFolder find_checkpoint(const std::string& path);

/// Bytes a checkpoint of these tensors takes on disk, without its JSON.
uint64_t checkpoint_bytes(const CheckpointContents& contents);

}  // namespace ctxc
