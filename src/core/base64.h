// Base64 (RFC 4648 section 4), with padding and without line breaks: how HTTP interfaces carry tensors.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace ctxc {

std::string base64(std::span<const std::byte> bytes);

}  // namespace ctxc
