// Patterns of tokenizer.json (Oniguruma's Ruby syntax) run by PCRE2 with its JIT. The dialects differ where
// it matters here: PCRE2's \s holds U+180E and its \w lacks marks, so both are rewritten to Unicode
// properties; what could mean something else in PCRE2 is refused.
#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace ctxc {

class Regex {
 public:
  /// Buffers of one thread; one object serves all patterns.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    void* data_;
    void* stack_;
    void* context_;
  };

  /// Error kInput "origin: …" on patterns that PCRE2 or the rules above do not allow.
  Regex(const std::string& pattern, const std::string& origin);

  /// Finds the first match that begins at or after `start`. `text` must be well-formed UTF-8.
  bool search(std::string_view text, size_t start, size_t& begin, size_t& end, Scratch& scratch) const;

 private:
  std::shared_ptr<void> code_;
  bool jit_ = false;
};

/// `text` with every character that means something in a pattern escaped.
std::string escape_regex(std::string_view text);

}  // namespace ctxc
