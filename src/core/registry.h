// Registry<Base, Args...>: factories by name that register themselves from the file that implements them.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace ctxc {

template <class Factory>
class Registry {
 public:
  struct Entry {
    Factory factory;
    std::string help;  ///< one line for --list
  };
  /// The process-wide registry of this factory type. `kind` names it in messages ("compressor").
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  bool add(const std::string& name, Factory factory, std::string help) {
    if (!entries_.emplace(name, Entry{std::move(factory), std::move(help)}).second)
      throw Error(ErrorKind::kInternal, fmt::format("{} '{}' is registered twice", kind_, name));
    return true;
  }
  /// Error kUsage with the nearest name when there is no such entry.
  const Entry& at(const std::string& name) const {
    auto it = entries_.find(name);
    if (it == entries_.end())
      throw Error(
          ErrorKind::kUsage,
          fmt::format("unknown {} (found '{}', expected one of: {})", kind_, name, join(names(), ", ")),
          did_you_mean(name, names()));
    return it->second;
  }
  bool contains(const std::string& name) const { return entries_.count(name) > 0; }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, entry] : entries_) result.push_back(name);
    return result;
  }
  const std::map<std::string, Entry>& entries() const { return entries_; }

 private:
  std::string kind_;
  std::map<std::string, Entry> entries_;
};

}  // namespace ctxc
