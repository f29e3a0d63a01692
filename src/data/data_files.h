// Which files a data entry means, and what is in them.
#pragma once
#include <string>
#include <vector>

namespace ctxc {

struct SourceConfig;

/// The files of `path` (relative paths below `root`): a file, a glob, or the data files of a folder (not of
/// its sub-folders). Numbers in names are compared as numbers, so that shard 2 comes before shard 10. Error
/// kInput if there is none; Parquet and Arrow files are named with the command that converts them.
std::vector<std::string> resolve_data_files(const std::string& path, const std::string& root);

/// mrqa | squad | qa_jsonl | text, by the content of the first row and the file's name. Error kInput if it is
/// none.
std::string recognise_format(const std::string& file, const SourceConfig& config);

}  // namespace ctxc
