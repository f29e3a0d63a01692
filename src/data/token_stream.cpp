#include "data/token_stream.h"

#include <algorithm>

namespace ctxc {
namespace {

constexpr size_t kRead = size_t{1} << 16;
constexpr size_t kAround = 256;  ///< bytes on either side of a cut that are encoded both ways

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_visible(char c) {
  return c > ' ' && c < 0x7F;
}
bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

}  // namespace

TokenStream::TokenStream(Tokenizer tokenizer, Reader read, Tokens first)
    : tokenizer_(std::move(tokenizer)), read_(std::move(read)), ready_(std::move(first)) {}

bool TokenStream::safe(size_t cut) const {
  size_t begin = cut > kAround ? cut - kAround : 0, end = std::min(cut + kAround, pending_.size());
  while (begin < cut && continues_character(pending_[begin])) ++begin;
  while (end > cut && end < pending_.size() && continues_character(pending_[end])) --end;
  const std::string_view text(pending_);
  Tokens parts = tokenizer_.encode(text.substr(begin, cut - begin));
  const Tokens right = tokenizer_.encode(text.substr(cut, end - cut));
  parts.insert(parts.end(), right.begin(), right.end());
  return parts == tokenizer_.encode(text.substr(begin, end - begin));
}

size_t TokenStream::last_safe_cut() const {
  for (size_t cut = pending_.size() - 1; cut > std::max<size_t>(tried_, 1); --cut) {
    const bool line = pending_[cut - 1] == '\n' && is_visible(pending_[cut]);
    const bool word = pending_[cut] == ' ' && is_letter(pending_[cut - 1]) && is_letter(pending_[cut + 1]);
    if ((line || word) && safe(cut)) return cut;
  }
  return 0;
}

size_t TokenStream::forced_cut() const {
  size_t cut = pending_.size() - kAround;
  while (cut > 1 && continues_character(pending_[cut])) --cut;
  const size_t last = cut;
  for (size_t i = 0; i < kAround && cut > 1; ++i, --cut)
    if (!continues_character(pending_[cut]) && safe(cut)) return cut;
  return last;
}

void TokenStream::take(size_t size) {
  const Tokens tokens = tokenizer_.encode(std::string_view(pending_).substr(0, size));
  ready_.erase(ready_.begin(), ready_.begin() + static_cast<int64_t>(first_ready_));
  first_ready_ = 0;
  ready_.insert(ready_.end(), tokens.begin(), tokens.end());
  pending_.erase(0, size);
  tried_ = 0;
}

bool TokenStream::fill() {
  if (ended_) return false;
  const size_t before = pending_.size();
  pending_.resize(before + kRead);
  const size_t found = read_(pending_.data() + before, kRead);
  pending_.resize(before + found);
  bytes_ += found;
  hash_.update(std::string_view(pending_).substr(before));
  if (found == 0) {
    ended_ = true;
    take(pending_.size());
    return true;
  }
  // The last byte must have been seen for the byte in front of it to be judged.
  const size_t cut = pending_.size() > 2 ? last_safe_cut() : 0;
  if (cut > 0) {
    take(cut);
  } else if (pending_.size() > kLongest) {
    const size_t forced = forced_cut();
    forced_ = forced_ || !safe(forced);
    take(forced);
  } else {
    tried_ = pending_.size() - 1;
  }
  return true;
}

Tokens TokenStream::next(size_t count) {
  while (ready_.size() - first_ready_ < count && fill()) {
  }
  const size_t given = std::min(count, ready_.size() - first_ready_);
  const auto begin = ready_.begin() + static_cast<int64_t>(first_ready_);
  first_ready_ += given;
  return {begin, begin + static_cast<int64_t>(given)};
}

}  // namespace ctxc
