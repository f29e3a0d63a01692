#include "data/tokenizer.h"

#include <unicode/normalizer2.h>

#include <algorithm>
#include <filesystem>
#include <mutex>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/byte_alphabet.h"
#include "data/utf8.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// What one encode() at a time needs; kept for the next one, with its word cache warm.
struct Workspace {
  Regex::Scratch regex;
  Bpe::Scratch bpe;
  std::vector<AddedTokens::Piece> pieces, parts;
};

/// Lends workspaces to threads: encode() is const and may run in several threads at once.
class WorkspacePool {
 public:
  class Lease {
   public:
    explicit Lease(WorkspacePool& pool) : pool_(pool), workspace_(pool.take()) {}
    ~Lease() { pool_.give(std::move(workspace_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace& operator*() { return *workspace_; }

   private:
    WorkspacePool& pool_;
    std::unique_ptr<Workspace> workspace_;
  };

 private:
  std::unique_ptr<Workspace> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        auto workspace = std::move(free_.back());
        free_.pop_back();
        return workspace;
      }
    }
    return std::make_unique<Workspace>();
  }
  void give(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(workspace));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> free_;
};

/// NFC of well-formed UTF-8.
std::string nfc(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  std::string out;
  if (U_SUCCESS(status)) {
    icu::StringByteSink<std::string> sink(&out);
    normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                              nullptr, status);
  }
  CTXC_CHECK(U_SUCCESS(status), ErrorKind::kInternal, "", "tokenizer: NFC failed ({})", u_errorName(status));
  return out;
}

std::vector<AddedToken> added_where(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedToken> out;
  for (AddedToken token : spec.added) {
    if (token.normalized != normalized) continue;
    if (normalized && spec.nfc) token.content = nfc(token.content);
    out.push_back(std::move(token));
  }
  return out;
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(const TokenizerSpec& spec);
  void name_tokens(const TokenizerSpec& spec);
  void take_fingerprint(const TokenizerSpec& spec);
  void check_roles(const TokenizerSpec& spec) const;
  void encode_text(std::string_view text, Workspace& workspace, Tokens& out) const;

  struct Entry {
    std::string spelling;  ///< as in the vocabulary
    std::string bytes;     ///< what it decodes to
    bool exists = false, special = false;
  };

  std::string origin;
  AddedTokens added, added_normalized;
  Pretokenizer pretokenizer;
  Bpe bpe;
  bool normalize;
  std::vector<Entry> entries;  ///< by id
  std::unordered_map<std::string, TokenId> ids;
  Tokens prefix, suffix;
  std::optional<TokenId> bos, eos, pad;
  std::string chat_template, fingerprint;
  mutable WorkspacePool workspaces;
};

Tokenizer::Impl::Impl(const TokenizerSpec& spec)
    : origin(spec.origin),
      added(added_where(spec, false)),
      added_normalized(added_where(spec, true)),
      pretokenizer(spec.steps, spec.origin),
      bpe(spec),
      normalize(spec.nfc),
      ids(spec.vocabulary),
      prefix(spec.prefix),
      suffix(spec.suffix),
      bos(spec.bos),
      eos(spec.eos),
      pad(spec.pad),
      chat_template(spec.chat_template) {
  name_tokens(spec);
  check_roles(spec);
  take_fingerprint(spec);
}

void Tokenizer::Impl::name_tokens(const TokenizerSpec& spec) {
  TokenId highest = -1;
  for (const auto& [spelling, id] : spec.vocabulary) highest = std::max(highest, id);
  for (const AddedToken& token : spec.added) highest = std::max(highest, token.id);
  entries.resize(highest + 1);
  for (const auto& [spelling, id] : spec.vocabulary) {
    CTXC_CHECK(!entries[id].exists, ErrorKind::kInput, "the file is damaged",
               "{}: two tokens have the id {} ('{}' and '{}')", origin, id, entries[id].spelling, spelling);
    entries[id] = {spelling, bytes_of_spelling(spelling).value_or(spelling), true, false};
  }
  for (const AddedToken& token : spec.added) {
    const auto [known, fresh] = ids.emplace(token.content, token.id);
    Entry& entry = entries[token.id];
    CTXC_CHECK(known->second == token.id && (!entry.exists || entry.spelling == token.content),
               ErrorKind::kInput, "the file is damaged",
               "{}: added token '{}' (id {}) contradicts the vocabulary ('{}', id {})", origin, token.content,
               token.id, entry.exists ? entry.spelling : known->first, known->second);
    if (!entry.exists)
      entry = {token.content, bytes_of_spelling(token.content).value_or(token.content), true, false};
    entry.special = token.special;
  }
}

void Tokenizer::Impl::check_roles(const TokenizerSpec& spec) const {
  const auto check = [&](TokenId id, const char* role) {
    CTXC_CHECK(id >= 0 && id < static_cast<TokenId>(entries.size()) && entries[id].exists, ErrorKind::kInput,
               "the tokenizer files do not belong together", "{}: there is no token with the id {} ({})",
               origin, id, role);
  };
  if (spec.bos) check(*spec.bos, "bos");
  if (spec.eos) check(*spec.eos, "eos");
  if (spec.pad) check(*spec.pad, "pad");
  for (const TokenId id : spec.prefix) check(id, "post-processor");
  for (const TokenId id : spec.suffix) check(id, "post-processor");
}

void Tokenizer::Impl::take_fingerprint(const TokenizerSpec& spec) {
  Sha256 hash;
  for (size_t id = 0; id < entries.size(); ++id)
    if (entries[id].exists)
      hash.update(fmt::format("{} {} {}\n", id, entries[id].special ? 's' : 't', entries[id].spelling));
  for (const auto& [left, right] : spec.merges) hash.update(fmt::format("m {} {}\n", left, right));
  fingerprint = hash.hex();
}

void Tokenizer::Impl::encode_text(std::string_view text, Workspace& workspace, Tokens& out) const {
  const auto words = [&](std::string_view piece) {
    pretokenizer.split(piece, workspace.regex,
                       [&](std::string_view word) { bpe.encode(word, workspace.bpe, out); });
  };
  if (added_normalized.empty()) return words(text);
  workspace.parts.clear();
  added_normalized.split(text, workspace.parts);
  for (const auto& part : workspace.parts) {
    if (part.id == AddedTokens::kText)
      words(part.text);
    else
      out.push_back(part.id);
  }
}

Tokenizer Tokenizer::load(const std::string& path) {
  Tokenizer tokenizer;
  const fs::path given(path);
  CTXC_CHECK(fs::exists(given), ErrorKind::kInput,
             "give a Hugging Face folder, a tokenizer.json or a GGUF file", "{}: no such file or folder",
             path);
  if (fs::is_directory(given))
    tokenizer.impl_ = std::make_shared<Impl>(read_tokenizer_json(path));
  else if (is_gguf(path))
    tokenizer.impl_ = std::make_shared<Impl>(read_tokenizer_gguf(path));
  else if (given.filename() == "tokenizer.json")
    tokenizer.impl_ = std::make_shared<Impl>(
        read_tokenizer_json(given.has_parent_path() ? given.parent_path().string() : "."));
  else
    throw Error(ErrorKind::kInput, fmt::format("{}: neither a GGUF file nor a tokenizer.json", path),
                "give a Hugging Face folder, a tokenizer.json or a GGUF file");
  return tokenizer;
}

Tokens Tokenizer::encode(std::string_view text, bool add_special) const {
  Tokens out;
  if (add_special) out = impl_->prefix;
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = replace_invalid_utf8(text);
  WorkspacePool::Lease lease(impl_->workspaces);
  Workspace& workspace = *lease;
  out.reserve(out.size() + text.size() / 4 + 4);
  workspace.pieces.clear();
  impl_->added.split(text, workspace.pieces);
  for (const auto& piece : workspace.pieces) {
    if (piece.id != AddedTokens::kText)
      out.push_back(piece.id);
    else if (impl_->normalize)
      impl_->encode_text(nfc(piece.text), workspace, out);
    else
      impl_->encode_text(piece.text, workspace, out);
  }
  if (add_special) out.insert(out.end(), impl_->suffix.begin(), impl_->suffix.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    CTXC_CHECK(contains(id), ErrorKind::kInput, "the ids belong to another tokenizer",
               "{}: there is no token with the id {}", impl_->origin, id);
    const auto& entry = impl_->entries[id];
    if (!entry.special || !skip_special) bytes += entry.bytes;
  }
  return is_valid_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
}

std::string Tokenizer::piece(TokenId id) const {
  return decode({&id, 1}, false);
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(impl_->entries.size());
}
std::optional<TokenId> Tokenizer::bos() const {
  return impl_->bos;
}
std::optional<TokenId> Tokenizer::eos() const {
  return impl_->eos;
}
std::optional<TokenId> Tokenizer::pad() const {
  return impl_->pad;
}

std::optional<TokenId> Tokenizer::find(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  return found == impl_->ids.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::contains(TokenId id) const {
  return id >= 0 && id < static_cast<TokenId>(impl_->entries.size()) && impl_->entries[id].exists;
}

bool Tokenizer::is_special(TokenId id) const {
  return contains(id) && impl_->entries[id].special;
}

const std::string& Tokenizer::chat_template() const {
  return impl_->chat_template;
}
std::string Tokenizer::fingerprint() const {
  return impl_->fingerprint;
}

}  // namespace ctxc
