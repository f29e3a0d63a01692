#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/file.h"
#include "data/source.h"

namespace ctxc {
namespace {

/// One visit of an example: `round` counts the passes through its source.
struct Visit {
  size_t source;
  int64_t index, round, length;
};

}  // namespace

struct Batcher::Impl {
  std::vector<std::shared_ptr<DataSource>> sources;
  std::vector<int64_t> quota;  ///< visits of each source in an epoch
  std::vector<int64_t> first;  ///< slot of a source's first visit
  std::vector<std::vector<int32_t>> lengths;
  std::vector<double> weights;
  Options options;
  int64_t visits = 0, per_epoch = 0;

  Visit visit(int64_t epoch, int64_t position) const;
  std::vector<Visit> block(int64_t epoch, int64_t number) const;
  Example fetch(const Visit& visit) const;
};

/// The visit at `position` of an epoch's order.
Visit Batcher::Impl::visit(int64_t epoch, int64_t position) const {
  int64_t slot = position;
  if (options.shuffle)
    slot =
        static_cast<int64_t>(KeyedPermutation(static_cast<uint64_t>(visits), options.seed, "epoch",
                                              static_cast<uint64_t>(epoch))[static_cast<uint64_t>(position)]);
  const size_t source =
      static_cast<size_t>(std::upper_bound(first.begin(), first.end(), slot) - first.begin()) - 1;
  const int64_t size = static_cast<int64_t>(lengths[source].size());
  const int64_t number = epoch * quota[source] + slot - first[source];
  const int64_t round = number / size;
  int64_t index = number % size;
  if (options.shuffle)
    index = static_cast<int64_t>(
        KeyedPermutation(static_cast<uint64_t>(size), options.seed, fmt::format("source-{}", source),
                         static_cast<uint64_t>(round))[static_cast<uint64_t>(index)]);
  return {source, index, round, lengths[source][static_cast<size_t>(index)]};
}

/// The visits of block `number` (bucket_batches micro-batches of an epoch), similar lengths together.
std::vector<Visit> Batcher::Impl::block(int64_t epoch, int64_t number) const {
  const int64_t size = options.batch * options.bucket_batches;
  const int64_t begin = number * size, end = std::min(visits, begin + size);
  std::vector<Visit> result;
  result.reserve(static_cast<size_t>(end - begin));
  for (int64_t position = begin; position < end; ++position) result.push_back(visit(epoch, position));
  if (options.bucket_batches > 1)
    std::stable_sort(result.begin(), result.end(),
                     [](const Visit& a, const Visit& b) { return a.length < b.length; });
  return result;
}

/// The example, with the queries that this visit uses.
Example Batcher::Impl::fetch(const Visit& visit) const {
  Example example = sources[visit.source]->example(visit.index);
  const size_t count = example.queries.size();
  if (options.max_queries == 0 || count <= static_cast<size_t>(options.max_queries)) return example;
  std::vector<size_t> chosen;
  const KeyedPermutation order(count, options.seed, fmt::format("queries-{}-{}", visit.source, visit.index),
                               static_cast<uint64_t>(visit.round));
  for (int64_t i = 0; i < options.max_queries; ++i)
    chosen.push_back(options.shuffle ? order[static_cast<uint64_t>(i)] : static_cast<size_t>(i));
  std::sort(chosen.begin(), chosen.end());
  std::vector<Query> queries;
  for (size_t index : chosen) queries.push_back(std::move(example.queries[index]));
  example.queries = std::move(queries);
  return example;
}

Batcher::Batcher(std::vector<std::shared_ptr<DataSource>> sources, std::vector<double> weights,
                 Options options) {
  CTXC_CHECK(!sources.empty() && sources.size() == weights.size(), ErrorKind::kInternal, "",
             "Batcher: as many weights as sources, at least one (found {} and {})", weights.size(),
             sources.size());
  CTXC_CHECK(options.batch > 0 && options.accumulate > 0 && options.bucket_batches > 0, ErrorKind::kUsage, "",
             "Batcher: batch, accumulate and bucket_batches must be positive (found {}, {} and {})",
             options.batch, options.accumulate, options.bucket_batches);
  auto impl = std::make_shared<Impl>();
  for (size_t i = 0; i < sources.size(); ++i) {
    CTXC_CHECK(weights[i] > 0, ErrorKind::kUsage, "leave the entry out instead",
               "data: weights must be above 0 (found {})", weights[i]);
    CTXC_CHECK(sources[i]->size() > 0, ErrorKind::kInput,
               "see what the data holds with --dry-run; does skip_samples leave any?",
               "{}: the data source is empty", sources[i]->name());
    if (options.mix_sources) weights[i] /= static_cast<double>(sources[i]->size());
  }
  const double smallest = *std::min_element(weights.begin(), weights.end());
  for (size_t i = 0; i < sources.size(); ++i) {
    const int64_t size = sources[i]->size();
    impl->first.push_back(impl->visits);
    impl->quota.push_back(std::llround(static_cast<double>(size) * weights[i] / smallest));
    impl->visits += impl->quota.back();
    std::vector<int32_t> lengths(static_cast<size_t>(size));
    for (int64_t k = 0; k < size; ++k)
      lengths[static_cast<size_t>(k)] = static_cast<int32_t>(sources[i]->length(k));
    impl->lengths.push_back(std::move(lengths));
  }
  impl->per_epoch = (impl->visits + options.batch - 1) / options.batch;
  impl->sources = std::move(sources);
  impl->weights = std::move(weights);
  impl->options = options;
  impl_ = std::move(impl);
}

Batch Batcher::batch(int64_t step, int64_t micro) const {
  const Options& options = impl_->options;
  const int64_t number = step * options.accumulate + micro;
  const int64_t epoch = number / impl_->per_epoch, in_epoch = number % impl_->per_epoch;
  const int64_t block_number = in_epoch / options.bucket_batches;
  int64_t in_block = in_epoch % options.bucket_batches;
  const auto visits = impl_->block(epoch, block_number);
  const int64_t batches = (static_cast<int64_t>(visits.size()) + options.batch - 1) / options.batch;
  if (options.shuffle && options.bucket_batches > 1) {
    const uint64_t block_key = static_cast<uint64_t>(epoch * impl_->per_epoch + block_number);
    in_block = static_cast<int64_t>(KeyedPermutation(static_cast<uint64_t>(batches), options.seed, "batches",
                                                     block_key)[static_cast<uint64_t>(in_block)]);
  }
  Batch batch;
  batch.key = {options.seed, step, micro, true};
  batch.padded_length = options.padded_length;
  const int64_t begin = in_block * options.batch;
  const int64_t end = std::min(static_cast<int64_t>(visits.size()), begin + options.batch);
  for (int64_t i = begin; i < end; ++i)
    batch.examples.push_back(impl_->fetch(visits[static_cast<size_t>(i)]));
  return batch;
}

int64_t Batcher::batches_per_epoch() const {
  return impl_->per_epoch;
}

std::string Batcher::fingerprint() const {
  const Options& o = impl_->options;
  std::string text = fmt::format("{} {} {} {} {} {} {}", o.batch, o.accumulate, o.bucket_batches, o.shuffle,
                                 o.seed, o.padded_length, o.max_queries);
  for (size_t i = 0; i < impl_->sources.size(); ++i)
    text += fmt::format("\n{} {}", impl_->weights[i], impl_->sources[i]->fingerprint());
  return sha256_hex(text);
}

}  // namespace ctxc
