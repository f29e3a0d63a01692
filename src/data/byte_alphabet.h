// GPT-2's alphabet for bytes: every byte is written as one printable character, so that a vocabulary of byte
// strings can be stored as text (the space becomes 'Ġ', the newline 'Ċ').
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace ctxc {

/// The character (UTF-8) that stands for `byte`.
const std::string& byte_character(unsigned char byte);

/// The bytes a token's spelling stands for; nothing if a character is outside the alphabet (special tokens
/// may be). `spelling` must be well-formed UTF-8.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

/// The spelling of a byte string.
std::string spelling_of_bytes(std::string_view bytes);

}  // namespace ctxc
