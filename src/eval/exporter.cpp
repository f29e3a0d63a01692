#include "eval/exporter.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

bool in_the_way(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(path, ignored))) return false;
  return !fs::is_directory(path, ignored) || !fs::is_empty(path, ignored);
}

/// A temporary name beside the output that disappears unless it was moved into place.
class Staging {
 public:
  explicit Staging(const fs::path& out) : out_(out), path_(out) {
    path_ += fmt::format(".part-{}", getpid());
    remove();
  }
  ~Staging() { remove(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  std::string path() const { return path_.string(); }

  void commit() {
    fs::path old = out_;
    old += fmt::format(".old-{}", getpid());
    std::error_code error, absent;
    const bool replaces = fs::exists(fs::symlink_status(out_, absent));
    // A folder cannot be renamed over a full one: the old one steps aside first and goes when the new one
    // stands.
    if (replaces) fs::rename(out_, old, error);
    if (!error) fs::rename(path_, out_, error);
    CTXC_CHECK(!error, ErrorKind::kDisk, "check permissions and free space",
               "{}: cannot be put in place ({})", out_.string(), error.message());
    if (replaces) fs::remove_all(old, error);
  }

 private:
  void remove() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path out_, path_;
};

void check_options(const std::string& target, const Exporter& exporter, const ExportRequest& request) {
  const std::pair<const char*, bool> given[] = {
      {"offset", request.offset != 0},
      {"llama-state-version", request.llama_state_version.has_value()},
      {"llama-state-like", !request.llama_state_like.empty()},
      {"llama-flash-attention", !request.llama_flash_attention.empty()},
      {"llama-placeholder", request.llama_placeholder.has_value()}};
  for (const auto& [option, is_given] : given) {
    const bool read =
        std::find(exporter.options.begin(), exporter.options.end(), option) != exporter.options.end();
    CTXC_CHECK(!is_given || read, ErrorKind::kUsage,
               fmt::format("leave it out, or give --to {}",
                           option == std::string("offset") ? "hf-cache, peft-prefix, peft-cartridge or raw"
                                                           : "llamacpp-state"),
               "--{}: the target '{}' does not read it", option, target);
  }
}

}  // namespace

Registry<Exporter>& exporter_registry() {
  static Registry<Exporter> registry("export target");
  return registry;
}

void run_export(const std::string& target, const ExportRequest& request, bool overwrite) {
  const Exporter& exporter = exporter_registry().at(target).factory;
  check_options(target, exporter, request);
  std::string out = request.out;
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  CTXC_CHECK(fs::exists(request.in), ErrorKind::kInput,
             "give a run folder, a checkpoint or a memory artifact", "{}: no such file or folder",
             request.in);
  CTXC_CHECK(!in_the_way(out) || overwrite, ErrorKind::kBusy, "choose another --out, or add --overwrite",
             "{}: is there already and not empty", out);
  CTXC_CHECK(!fs::exists(out) || !fs::equivalent(out, request.in), ErrorKind::kUsage, "choose another --out",
             "{}: input and output are the same", out);
  const fs::path parent = fs::path(out).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  Staging staging(out);
  ExportRequest staged = request;
  staged.out = staging.path();
  if (exporter.folder) make_directories(staged.out);
  exporter.write(staged);
  staging.commit();
}

}  // namespace ctxc
