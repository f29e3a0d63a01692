// The tokens of a text of any length, in constant memory: token for token those of Tokenizer::encode on the
// whole text. The text is cut where no token can reach over: in front of a line that begins with something
// visible, or of a space between two letters; and only where encoding the surroundings in two parts gives
// what encoding them at once gives, which a tokenizer with rules of its own may refuse.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "core/file.h"
#include "data/tokenizer.h"

namespace ctxc {

class TokenStream {
 public:
  /// `read` fills at most `size` bytes and says how many; 0 at the end.
  using Reader = std::function<size_t(char* bytes, size_t size)>;
  /// `first`: tokens in front of the text's (BOS).
  TokenStream(Tokenizer tokenizer, Reader read, Tokens first = {});

  /// The next `count` tokens; fewer at the end of the text, none behind it.
  Tokens next(size_t count);
  uint64_t bytes() const { return bytes_; }  ///< read so far
  /// Of all bytes, once next() has given none. Ends it.
  std::string sha256() { return hash_.hex(); }
  /// True if a stretch without any place to cut had to be cut inside a word (see kLongest).
  bool cut_inside_a_word() const { return forced_; }

 private:
  /// A stretch of text without a place to cut is cut anyway once it is this long.
  static constexpr size_t kLongest = size_t{1} << 20;
  bool fill();  ///< reads and encodes some more; false at the end
  void take(size_t size);
  bool safe(size_t cut) const;
  size_t last_safe_cut() const;
  size_t forced_cut() const;

  Tokenizer tokenizer_;
  Reader read_;
  std::string pending_;
  Tokens ready_;
  size_t first_ready_ = 0, tried_ = 0;
  uint64_t bytes_ = 0;
  Sha256 hash_;
  bool ended_ = false, forced_ = false;
};

}  // namespace ctxc
