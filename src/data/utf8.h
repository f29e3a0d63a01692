// UTF-8 as the tokenizer needs it: validation, repair of broken bytes, code points one by one.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace ctxc {

/// True if `text` is well-formed UTF-8 (Unicode table 3-7: no surrogates, no overlong forms, at most
/// U+10FFFF).
bool is_valid_utf8(std::string_view text);

/// `text` with every maximal subpart of an ill-formed sequence replaced by U+FFFD: what Python's
/// bytes.decode(errors="replace") and Rust's String::from_utf8_lossy give.
std::string replace_invalid_utf8(std::string_view text);

void append_utf8(std::string& out, char32_t code_point);

/// The code point that begins at `position`, which moves behind it. `text` must be well-formed.
char32_t next_code_point(std::string_view text, size_t& position);

/// Where the code point that ends before `end` begins. `text` must be well-formed, end > 0.
size_t previous_boundary(std::string_view text, size_t end);

}  // namespace ctxc
