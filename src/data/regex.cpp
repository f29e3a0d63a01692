#include "data/regex.h"

#include <cctype>
#include <cstring>
#include <new>

#include "core/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace ctxc {
namespace {

constexpr size_t kJitStackStart = 32 << 10, kJitStackLimit = 64 << 20;

[[noreturn]] void refuse(const std::string& origin, const std::string& pattern, const std::string& what) {
  throw Error(ErrorKind::kInput, fmt::format("{}: pattern '{}': {}", origin, pattern, what),
              "only patterns that mean the same to Oniguruma and PCRE2 are supported");
}

/// One escape after its backslash, in PCRE2's words; `in_class` inside [...].
std::string translate_escape(char escape, bool in_class, const std::string& pattern,
                             const std::string& origin) {
  // Oniguruma's word characters, measured over all code points: superscripts and fractions of Latin-1 are in.
  const std::string word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
  switch (escape) {
    case 's':
      return "\\p{White_Space}";
    case 'S':
      return "\\P{White_Space}";
    case 'w':
      return in_class ? word : "[" + word + "]";
    case 'W':
      if (!in_class) return "[^" + word + "]";
      break;
    case 'd':
    case 'D':
    case 'p':
    case 'P':
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'x':
      return std::string("\\") + escape;
    default:
      if (!std::isalnum(static_cast<unsigned char>(escape))) return std::string("\\") + escape;
  }
  refuse(origin, pattern,
         fmt::format("the escape '\\{}'{} is not supported", escape, in_class ? " inside [...]" : ""));
}

std::string translate(const std::string& pattern, const std::string& origin) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      if (i + 1 == pattern.size()) refuse(origin, pattern, "it ends in a backslash");
      out += translate_escape(pattern[++i], in_class, pattern, origin);
      continue;
    }
    if (in_class && (c == '[' || (c == '&' && pattern.compare(i, 2, "&&") == 0)))
      refuse(origin, pattern, fmt::format("'{}' inside [...] is not supported", c));
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

std::string pcre_message(int code) {
  unsigned char buffer[256];
  return pcre2_get_error_message(code, buffer, sizeof buffer) < 0 ? "unknown error"
                                                                  : reinterpret_cast<const char*>(buffer);
}

}  // namespace

Regex::Scratch::Scratch()
    : data_(pcre2_match_data_create(1, nullptr)),
      stack_(pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  if (!data_ || !context_) throw std::bad_alloc();
  if (stack_)
    pcre2_jit_stack_assign(static_cast<pcre2_match_context*>(context_), nullptr,
                           static_cast<pcre2_jit_stack*>(stack_));
}

Regex::Scratch::~Scratch() {
  pcre2_match_context_free(static_cast<pcre2_match_context*>(context_));
  pcre2_jit_stack_free(static_cast<pcre2_jit_stack*>(stack_));
  pcre2_match_data_free(static_cast<pcre2_match_data*>(data_));
}

Regex::Regex(const std::string& pattern, const std::string& origin) {
  const std::string translated = translate(pattern, origin);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                   &offset, nullptr);
  if (!code) refuse(origin, pattern, pcre_message(error));
  code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  jit_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
}

bool Regex::search(std::string_view text, size_t start, size_t& begin, size_t& end, Scratch& scratch) const {
  auto* code = static_cast<const pcre2_code*>(code_.get());
  auto* data = static_cast<pcre2_match_data*>(scratch.data_);
  auto* context = static_cast<pcre2_match_context*>(scratch.context_);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const int result =
      jit_ ? pcre2_jit_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, data, context)
           : pcre2_match(code, subject, text.size(), start, PCRE2_NO_UTF_CHECK, data, context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  CTXC_CHECK(result >= 0, ErrorKind::kInput, "split the text into shorter documents",
             "tokenizer: the pre-tokenizer's pattern gave up on a text of {} bytes ({})", text.size(),
             pcre_message(result));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
  begin = range[0];
  end = range[1];
  return true;
}

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c != '\0' && std::strchr("\\.+*?()|[]{}^$#&-~ ", c)) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace ctxc
