#include "data/byte_alphabet.h"

#include <array>

#include "data/utf8.h"

namespace ctxc {
namespace {

// Printable Latin-1 characters stand for themselves; the other bytes take the code points from 256 on, in
// order.
struct Alphabet {
  std::array<std::string, 256> character;
  std::array<int, 512> byte_of;

  Alphabet() {
    byte_of.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte != 173);
      const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(character[byte], code_point);
      byte_of[code_point] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

const std::string& byte_character(unsigned char byte) {
  return alphabet().character[byte];
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  for (size_t i = 0; i < spelling.size();) {
    const char32_t code_point = next_code_point(spelling, i);
    const int byte = code_point < alphabet().byte_of.size() ? alphabet().byte_of[code_point] : -1;
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

std::string spelling_of_bytes(std::string_view bytes) {
  std::string spelling;
  for (unsigned char byte : bytes) spelling += byte_character(byte);
  return spelling;
}

}  // namespace ctxc
