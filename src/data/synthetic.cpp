#include "data/synthetic.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/random.h"

namespace ctxc {
namespace {

using Words = std::vector<std::string>;

/// `{n}` stands for the name, `{v}` for the value.
struct Kind {
  Words values;
  std::vector<std::string> sentences;  ///< the first is the one of the fixed wordings; it ends in {v}
  std::vector<std::string> questions;
};

Words years(int first, int last) {
  Words result;
  for (int year = first; year <= last; ++year) result.push_back(std::to_string(year));
  return result;
}

const Words& names() {
  static const Words words = {"Anna", "Boris", "Clara",  "David",  "Emma",  "Felix", "Grace", "Henry",
                              "Ivan", "Julia", "Karl",   "Laura",  "Maria", "Nina",  "Oscar", "Paul",
                              "Rosa", "Simon", "Tina",   "Victor", "Alice", "Bruno", "Carol", "Diana",
                              "Eric", "Fiona", "George", "Helen",  "Igor",  "Jonas", "Kate",  "Leo",
                              "Mark", "Nora",  "Oliver", "Peter",  "Rita",  "Sarah", "Tom",   "Walter"};
  return words;
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {{"Rome",   "Paris", "London", "Berlin", "Madrid", "Vienna", "Oslo",   "Lima",
        "Cairo",  "Tokyo", "Delhi",  "Boston", "Dublin", "Athens", "Lisbon", "Prague",
        "Moscow", "Milan", "Sydney", "Genoa",  "Malta",  "Havana", "Lagos",  "Naples",
        "Quebec", "Riga",  "Seoul",  "Turin",  "Texas",  "Kenya",  "Peru",   "Nepal"},
       {"{n} lives in {v}", "{n} has a home in {v}", "The home of {n} is in {v}"},
       {"Where does {n} live?", "Where is the home of {n}?"}},
      {{"baker",   "doctor", "teacher", "farmer", "pilot",   "nurse",  "judge",  "lawyer",
        "painter", "singer", "writer",  "driver", "tailor",  "cook",   "waiter", "soldier",
        "sailor",  "miner",  "dancer",  "barber", "butcher", "guard",  "hunter", "clerk",
        "banker",  "poet",   "priest",  "potter", "mason",   "porter", "smith",  "tutor"},
       {"{n} works as a {v}", "{n} is a {v}", "The job of {n} is {v}"},
       {"What is the job of {n}?", "What does {n} work as?"}},
      {years(1960, 1991),
       {"{n} was born in {v}", "The birth of {n} was in {v}"},
       {"When was {n} born?", "What year was {n} born in?"}},
      {{"dog",  "cat",    "horse", "car",    "boat",  "bike",   "piano", "guitar", "house",  "farm", "garden",
        "shop", "hat",    "clock", "lamp",   "tent",  "camera", "sword", "mirror", "carpet", "drum", "flute",
        "goat", "rabbit", "pony",  "donkey", "truck", "wagon",  "kite",  "parrot", "ring",   "sofa"},
       {"{n} owns a {v}", "{n} has a {v}", "The {v} belongs to {n}"},
       {"What does {n} own?", "What belongs to {n}?"}},
      {{"soup",  "bread",  "rice",   "fish",   "pizza", "pasta", "salad", "cheese",
        "honey", "apples", "grapes", "lemons", "plums", "pears", "beans", "corn",
        "nuts",  "eggs",   "cake",   "pie",    "ham",   "bacon", "toast", "butter",
        "cream", "jam",    "figs",   "peas",   "tea",   "milk",  "juice", "beef"},
       {"{n} likes {v}", "{n} often eats {v}", "The best food for {n} is {v}"},
       {"What does {n} like?", "What food is best for {n}?"}},
      {{"chess",    "golf",    "tennis",   "poker",   "cards",   "darts",     "hockey", "rugby",
        "soccer",   "bridge",  "bingo",    "squash",  "polo",    "cricket",   "bowls",  "checkers",
        "baseball", "marbles", "football", "curling", "snooker", "billiards", "skat",   "rounders"},
       {"{n} plays {v}", "{n} is good at {v}", "The game of {n} is {v}"},
       {"What does {n} play?", "What game is {n} good at?"}},
  };
  return all;
}

/// Sentences about nobody; `{v}` is a value of kind `kind`.
struct Filler {
  size_t kind;
  std::string_view text;
};
constexpr std::array<Filler, 8> kFillers = {{{0, "It often rains in {v}"},
                                             {0, "The road to {v} is long"},
                                             {1, "The town needs a {v}"},
                                             {2, "The school was built in {v}"},
                                             {3, "There is a {v} near the road"},
                                             {4, "The market sells {v}"},
                                             {4, "The town has no {v}"},
                                             {5, "Nobody here plays {v}"}}};
const Words kLeads = {"Notes:", "News:", "The people of the town:", "Here is what we know:"};
constexpr uint64_t kValidShare = 8;  ///< one set of facts in so many is valid

struct Fact {
  size_t kind, name, value;
  int64_t begin = 0;  ///< where the value starts in the context
};

struct Draft {
  std::string context;
  std::vector<Fact> facts;
};

std::string expand(std::string_view pattern, const std::string& name, const std::string& value) {
  std::string text;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '{') {
      text += pattern[i];
      continue;
    }
    text += pattern[i + 1] == 'n' ? name : value;
    i += 2;
  }
  return text;
}

template <class T>
void shuffle(std::vector<T>& items, CounterRng& rng) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[rng.below(i)]);
}

/// `count` different numbers below `size`, in random order.
std::vector<size_t> choose(size_t count, size_t size, CounterRng& rng) {
  std::vector<size_t> all(size);
  for (size_t i = 0; i < size; ++i) all[i] = i;
  for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + rng.below(size - i)]);
  all.resize(count);
  return all;
}

size_t between(int64_t low, int64_t high, CounterRng& rng) {
  return static_cast<size_t>(low) + rng.below(static_cast<uint64_t>(high - low + 1));
}

/// Who, and which facts; no value of a kind is used twice, so that every answer is unique in its passage.
std::vector<Fact> draw_facts(const SyntheticConfig& config, CounterRng& rng) {
  const auto people = choose(between(config.people_min, config.people_max, rng), names().size(), rng);
  std::vector<std::vector<size_t>> values;
  for (const Kind& kind : kinds()) values.push_back(choose(people.size(), kind.values.size(), rng));
  std::vector<Fact> facts;
  const auto draw_kinds = [&] {
    return choose(between(config.facts_min, config.facts_max, rng), kinds().size(), rng);
  };
  std::vector<size_t> own = draw_kinds();
  for (size_t i = 0; i < people.size(); ++i) {
    if (i > 0 && !config.shared_facts) own = draw_kinds();
    for (size_t kind : own) facts.push_back({kind, people[i], values[kind][i]});
  }
  return facts;
}

bool is_valid_set(const std::vector<Fact>& facts) {
  std::vector<std::string> keys;
  for (const Fact& fact : facts) keys.push_back(fmt::format("{}.{}.{}", fact.name, fact.kind, fact.value));
  std::sort(keys.begin(), keys.end());
  return hash64(fmt::format("{}", fmt::join(keys, " "))) % kValidShare == 0;
}

/// Appends sentences; a fact's value is found again by the place where its sentence starts.
class Writer {
 public:
  explicit Writer(Draft& draft) : draft_(draft) {}
  void lead(const std::string& text) { draft_.context = text; }
  void sentence(const std::string& text) { draft_.context += " " + text + "."; }
  void fact(Fact fact, std::string_view pattern) {
    append(fact, pattern, " ");
    draft_.context += ".";
  }
  /// Two facts of one person whose patterns both begin with the name.
  void joined(const Fact& first, std::string_view pattern1, const Fact& second, std::string_view pattern2) {
    append(first, pattern1, " ");
    append(second, pattern2.substr(std::string_view("{n} ").size()), " and ");
    draft_.context += ".";
  }

 private:
  void append(Fact fact, std::string_view pattern, const char* before) {
    const std::string& value = kinds()[fact.kind].values[fact.value];
    draft_.context += before;
    const std::string head = expand(pattern.substr(0, pattern.find("{v}")), names()[fact.name], value);
    fact.begin = static_cast<int64_t>(draft_.context.size() + head.size());
    draft_.context += expand(pattern, names()[fact.name], value);
    draft_.facts.push_back(fact);
  }
  Draft& draft_;
};

void add_fillers(const SyntheticConfig& config, std::vector<std::string>& fillers, CounterRng& rng) {
  const size_t count = rng.below(static_cast<uint64_t>(config.filler) + 1);
  for (size_t i = 0; i < count; ++i) {
    const Filler& filler = kFillers[rng.below(kFillers.size())];
    const Words& values = kinds()[filler.kind].values;
    fillers.push_back(expand(filler.text, "", values[rng.below(values.size())]));
  }
}

void write_fixed(Draft& draft, const std::vector<Fact>& facts, const std::vector<std::string>& fillers,
                 CounterRng& rng) {
  Writer writer(draft);
  writer.lead(kLeads[0]);
  size_t next_filler = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    while (next_filler < fillers.size() && rng.below(facts.size()) == 0)
      writer.sentence(fillers[next_filler++]);
    writer.fact(facts[i], kinds()[facts[i].kind].sentences[0]);
  }
  while (next_filler < fillers.size()) writer.sentence(fillers[next_filler++]);
}

void write_mixed(Draft& draft, std::vector<Fact> facts, const std::vector<std::string>& fillers,
                 CounterRng& rng) {
  Writer writer(draft);
  writer.lead(kLeads[rng.below(kLeads.size())]);
  if (rng.below(2)) shuffle(facts, rng);
  size_t next_filler = 0;
  for (size_t i = 0; i < facts.size(); ++i) {
    while (next_filler < fillers.size() && rng.below(facts.size()) == 0)
      writer.sentence(fillers[next_filler++]);
    const auto& patterns = kinds()[facts[i].kind].sentences;
    const std::string& pattern = patterns[rng.below(patterns.size())];
    const bool same =
        i + 1 < facts.size() && facts[i + 1].name == facts[i].name && pattern.rfind("{n} ", 0) == 0;
    if (same && rng.below(3) == 0) {
      writer.joined(facts[i], pattern, facts[i + 1], kinds()[facts[i + 1].kind].sentences[0]);
      ++i;
    } else {
      writer.fact(facts[i], pattern);
    }
  }
  while (next_filler < fillers.size()) writer.sentence(fillers[next_filler++]);
}

void check(const SyntheticConfig& config) {
  CTXC_CHECK(config.people_min <= config.people_max, ErrorKind::kUsage, "",
             "synthetic: people_min is above people_max (found {} and {})", config.people_min,
             config.people_max);
  CTXC_CHECK(config.facts_min <= config.facts_max, ErrorKind::kUsage, "",
             "synthetic: facts_min is above facts_max (found {} and {})", config.facts_min, config.facts_max);
}

/// The random stream of a passage's wording and of its questions is apart from that of its facts.
CounterRng wording_rng(const SyntheticConfig& config, int64_t index) {
  return CounterRng(static_cast<uint64_t>(config.seed), "tiny-facts-wording-" + config.split, 0,
                    static_cast<uint64_t>(index));
}

Draft write_draft(const SyntheticConfig& config, int64_t index, CounterRng& wording) {
  check(config);
  std::vector<Fact> facts;
  for (uint64_t attempt = 0;; ++attempt) {
    CounterRng rng(static_cast<uint64_t>(config.seed), "tiny-facts-" + config.split, attempt,
                   static_cast<uint64_t>(index));
    facts = draw_facts(config, rng);
    if (is_valid_set(facts) == (config.split == "valid")) break;
  }
  Draft draft;
  std::vector<std::string> fillers;
  add_fillers(config, fillers, wording);
  if (config.wording == "mixed")
    write_mixed(draft, std::move(facts), fillers, wording);
  else
    write_fixed(draft, facts, fillers, wording);
  return draft;
}

std::string question_text(const SyntheticConfig& config, const Fact& fact, CounterRng& wording) {
  const Kind& kind = kinds()[fact.kind];
  const std::string& sentence = kind.sentences[0];
  const std::string beginning = expand(sentence.substr(0, sentence.find(" {v}")), names()[fact.name], "");
  if (config.wording == "easy") return beginning;
  const size_t variant = config.wording == "mixed" ? wording.below(kind.questions.size()) : 0;
  const std::string question = expand(kind.questions[variant], names()[fact.name], "");
  const bool repeat = config.wording == "question" || wording.below(2) == 0;
  return repeat ? question + " " + beginning : question;
}

std::string question_id(const SyntheticConfig& config, int64_t index, size_t number) {
  const std::string key = fmt::format("tiny-facts/{}/{}/{}/{}", config.split, config.seed, index, number);
  return fmt::format("{:016x}{:016x}", hash64(key), hash64(key + "/2"));
}

struct Written {
  Passage passage;
  std::vector<Fact> facts;
};

Written write_passage(const SyntheticConfig& config, int64_t index) {
  CounterRng wording = wording_rng(config, index);
  Draft draft = write_draft(config, index, wording);
  Written result;
  result.passage.id = fmt::format("{}-{}-{}", config.split, config.seed, index);
  for (size_t i = 0; i < draft.facts.size(); ++i) {
    const Fact& fact = draft.facts[i];
    result.passage.questions.push_back({question_id(config, index, i),
                                        question_text(config, fact, wording),
                                        {kinds()[fact.kind].values[fact.value]}});
  }
  result.passage.context = std::move(draft.context);
  result.facts = std::move(draft.facts);
  return result;
}

}  // namespace

void SyntheticConfig::describe(Fields& f) {
  f("count", count, "passages").min(1);
  f("seed", seed, "other seeds give other passages").min(0);
  f("split", split, "train and valid never share a set of facts").one_of({"train", "valid"});
  f("people_min", people_min, "fewest people in a passage").min(1).max(20);
  f("people_max", people_max, "most people in a passage").min(1).max(20);
  f("facts_min", facts_min, "fewest facts about a person").min(1).max(6);
  f("facts_max", facts_max, "most facts about a person").min(1).max(6);
  f("shared_facts", shared_facts,
    "all people of a passage have the same kinds of facts: only the name tells which answer is meant");
  f("filler", filler, "most sentences about nobody in a passage").min(0).max(100);
  f("wording", wording,
    "easy: the question is the beginning of the fact's sentence; question: it is asked first; "
    "mixed: several wordings, any order")
      .one_of({"easy", "question", "mixed"});
}

const std::vector<std::string>& synthetic_names() {
  return names();
}

const std::vector<std::string>& synthetic_places() {
  return kinds().front().values;
}

Passage synthetic_passage(const SyntheticConfig& config, int64_t index) {
  return write_passage(config, index).passage;
}

OrderedJson synthetic_mrqa_line(const SyntheticConfig& config, int64_t index) {
  const Written written = write_passage(config, index);
  OrderedJson qas = OrderedJson::array();
  for (size_t i = 0; i < written.facts.size(); ++i) {
    const Question& question = written.passage.questions[i];
    const std::string& answer = question.answers[0];
    const int64_t begin = written.facts[i].begin, last = begin + static_cast<int64_t>(answer.size()) - 1;
    OrderedJson detected = {{"text", answer},
                            {"char_spans", OrderedJson::array({OrderedJson::array({begin, last})})}};
    qas.push_back({{"qid", question.id},
                   {"question", question.text},
                   {"answers", question.answers},
                   {"detected_answers", OrderedJson::array({detected})}});
  }
  return {{"id", written.passage.id}, {"context", written.passage.context}, {"qas", qas}};
}

void write_synthetic_mrqa(const SyntheticConfig& config, const std::string& path) {
  AtomicFile file(path);
  const OrderedJson header = {{"header", {{"dataset", "tiny-facts"}, {"split", config.split}}}};
  file.write(header.dump() + "\n");
  for (int64_t index = 0; index < config.count; ++index)
    file.write(synthetic_mrqa_line(config, index).dump() + "\n");
  file.commit();
}

}  // namespace ctxc
