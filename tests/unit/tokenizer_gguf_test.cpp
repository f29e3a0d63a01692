// The tokenizer of a GGUF file: equal to the tokenizer.json it came from, and refused where it is damaged.
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "gguf_writer.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::GgufWriter;
using testing::TempDir;

/// The metadata of a golden tokenizer, in parts that tests may change.
struct Metadata {
  std::string model = "gpt2", pre = "smollm";
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  uint32_t bos = 0, eos = 1;
  bool add_bos = false;

  std::string save(const TempDir& folder) const {
    const auto strings = [](const std::vector<std::string>& items) {
      std::string bytes =
          GgufWriter::raw<uint32_t>(GgufWriter::kString) + GgufWriter::raw<uint64_t>(items.size());
      for (const std::string& item : items) bytes += GgufWriter::text(item);
      return bytes;
    };
    std::string numbers =
        GgufWriter::raw<uint32_t>(GgufWriter::kI32) + GgufWriter::raw<uint64_t>(types.size());
    for (const int32_t type : types) numbers += GgufWriter::raw(type);
    GgufWriter writer;
    writer.string("tokenizer.ggml.model", model).string("tokenizer.ggml.pre", pre);
    writer.key("tokenizer.ggml.tokens", GgufWriter::kArray, strings(tokens));
    writer.key("tokenizer.ggml.token_type", GgufWriter::kArray, numbers);
    writer.key("tokenizer.ggml.merges", GgufWriter::kArray, strings(merges));
    writer.integer("tokenizer.ggml.bos_token_id", bos).integer("tokenizer.ggml.eos_token_id", eos);
    writer.key("tokenizer.ggml.add_bos_token", GgufWriter::kBool, GgufWriter::raw<uint8_t>(add_bos));
    writer.string("tokenizer.chat_template", "{{ messages }}");
    return writer.save((folder / "model.gguf").string());
  }
};

Json golden(const std::string& name) {
  for (const Json& entry :
       read_json_file((testing::root() / "tests/fixtures/tokenizer/goldens.json").string()))
    if (entry["name"] == name) return entry;
  throw std::runtime_error("no golden " + name);
}

Metadata metadata_of(const Json& file, const std::string& pre) {
  Metadata out;
  out.pre = pre;
  const Json& vocabulary = file["model"]["vocab"];
  out.tokens.resize(vocabulary.size());
  out.types.assign(vocabulary.size(), 1);
  for (const auto& [token, id] : vocabulary.items()) out.tokens[id.get<size_t>()] = token;
  for (const Json& token : file["added_tokens"]) out.types[token["id"].get<size_t>()] = 3;
  for (const Json& merge : file["model"]["merges"])
    out.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                           : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  return out;
}

TEST(TokenizerGguf, EqualsTheTokenizerJsonItCameFrom) {
  for (const auto& [name, pre] :
       {std::pair("gpt2", "gpt-2"), {"smollm", "smollm"}, {"llama3", "llama-bpe"}}) {
    SCOPED_TRACE(name);
    const Json entry = golden(name);
    const TempDir folder;
    const Tokenizer tokenizer = Tokenizer::load(metadata_of(entry["tokenizer"], pre).save(folder));
    for (const Json& example : entry["cases"])
      EXPECT_EQ(tokenizer.encode(example["text"].get<std::string>()), example["ids"].get<Tokens>());
    write_file_atomic((folder / "tokenizer.json").string(), entry["tokenizer"].dump());
    EXPECT_EQ(tokenizer.fingerprint(), Tokenizer::load(folder.str()).fingerprint());
    EXPECT_EQ(tokenizer.bos(), 0);
    EXPECT_EQ(tokenizer.eos(), 1);
    EXPECT_FALSE(tokenizer.pad());
    EXPECT_EQ(tokenizer.chat_template(), "{{ messages }}");
  }
}

TEST(TokenizerGguf, AddsBosWhereTheFileSaysSo) {
  const TempDir folder;
  Metadata metadata = metadata_of(golden("gpt2")["tokenizer"], "gpt-2");
  EXPECT_EQ(Tokenizer::load(metadata.save(folder)).encode("", true), Tokens{});
  metadata.add_bos = true;
  EXPECT_EQ(Tokenizer::load(metadata.save(folder)).encode("", true), Tokens{0});
}

TEST(TokenizerGguf, TokenTypesDecideWhatIsSpecialAndWhatExists) {
  const TempDir folder;
  Metadata metadata = metadata_of(golden("gpt2")["tokenizer"], "default");
  const auto first = static_cast<TokenId>(metadata.tokens.size());
  metadata.tokens.insert(metadata.tokens.end(), {"<user>", "<unused>"});
  metadata.types.insert(metadata.types.end(), {4, 5});
  const Tokenizer tokenizer = Tokenizer::load(metadata.save(folder));
  EXPECT_EQ(tokenizer.encode("<user>"), Tokens{first});
  EXPECT_FALSE(tokenizer.is_special(first));
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.find("<unused>"));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("In 12345: a+b, <x>")), "In 12345: a+b, <x>");
}

TEST(TokenizerGguf, RefusesDamage) {
  const Metadata good = metadata_of(golden("gpt2")["tokenizer"], "gpt-2");
  const TempDir folder;
  const auto refuse = [&](const std::string& message, auto&& change) {
    Metadata bad = good;
    change(bad);
    expect_error(ErrorKind::kInput, message, [&] { Tokenizer::load(bad.save(folder)); });
  };
  refuse("tokenizer.ggml.model 'llama'", [](Metadata& m) { m.model = "llama"; });
  refuse("tokenizer.ggml.pre 'qwen2'", [](Metadata& m) { m.pre = "qwen2"; });
  refuse("does not fit the vocabulary", [](Metadata& m) { m.types.pop_back(); });
  refuse("token 5 is of unknown type 9", [](Metadata& m) { m.types[5] = 9; });
  refuse("occurs twice", [](Metadata& m) { m.tokens[5] = m.tokens[6]; });
  refuse("merge 0 is broken", [](Metadata& m) { m.merges[0] = "ab"; });
  refuse("needs the token", [](Metadata& m) { m.merges[0] = "a zzzz"; });
  refuse("eos_token_id is out of range", [](Metadata& m) { m.eos = 1 << 20; });
}

}  // namespace
}  // namespace ctxc
