// The keys of every section of a run configuration: one describe() per struct.
#include "train/run_config.h"

namespace ctxc {

void RunSection::describe(Fields& f) {
  f("name", name, "name of the run, shown in tables");
  f("dir", dir, "run folder; empty: runs/<name>");
  f("seed", seed, "of initial parameters, data order and noise").min(0);
  f("device", device,
    "cpu, cuda, cuda:N, or auto: the first GPU if this build and machine can use it, else the CPU");
  f("dtype", dtype,
    "of the frozen weights: auto = as stored. bfloat16 also computes in it: on a GPU (autocast) and on a CPU "
    "with "
    "AVX512-BF16 or AMX (matrix products only)")
      .one_of({"auto", "float32", "bfloat16"});
  f("threads", threads, "CPU threads; 0 = as the environment says (OMP_NUM_THREADS, else all cores)").min(0);
}

void BackboneShape::describe(Fields& f) {
  f("vocab_size", vocab_size, "rows of the embedding; 0 = the tokenizer's").min(0);
  f("hidden_size", hidden_size, "model width").min(1);
  f("intermediate_size", intermediate_size, "width of the feed-forward part").min(1);
  f("num_hidden_layers", num_hidden_layers, "layers").min(1);
  f("num_attention_heads", num_attention_heads, "query heads").min(1);
  f("num_key_value_heads", num_key_value_heads, "key/value heads").min(1);
  f("head_dim", head_dim, "width of a head; 0 = hidden_size / num_attention_heads").min(0);
  f("max_position_embeddings", max_position_embeddings, "longest text it is meant for").min(1).unit("tokens");
  f("rope_theta", rope_theta, "base of the rotary frequencies").above(0);
  f("rms_norm_eps", rms_norm_eps, "epsilon of the norms").above(0);
  f("initializer_range", initializer_range, "standard deviation of the initial weights").above(0);
  f("tie_word_embeddings", tie_word_embeddings, "the output matrix is the embedding");
}

void BackboneSection::describe(Fields& f) {
  f("path", path, "Hugging Face folder or GGUF file of the base model");
  f("init", init, "pretrained: weights of `path`; random: fresh ones of `config` or `shape`")
      .one_of({"pretrained", "random"});
  f("train", train, "train the base itself; its weights are then part of the checkpoints");
  f("tokenizer", tokenizer, "folder, tokenizer.json or GGUF file of the tokenizer; empty: that of `path`");
  f("config", config, "for init: random: a config.json that gives the shape; empty: `shape`");
  f.section("shape", shape, "for init: random without `config`: the numbers of the new Llama");
}

void DataSection::describe(Fields& f) {
  f("root", root,
    "folder below which relative data paths lie; empty: the environment's CTXC_DATA, else here");
  f.list("train", train, "training sets");
  f("mix", mix,
    "what the weights of training sets compare: examples (3 = an example is seen three times as often as one "
    "with 1) or sources (shares of the visits, whatever the sizes)")
      .one_of({"examples", "sources"});
  f.list("valid", valid, "validation sets, read every train.valid_every steps");
  f.list("eval", eval, "sets that ctxc-eval measures");
  f("contexts", contexts,
    "texts to compile, for methods that are optimised anew for each (lcc): text files, or JSONL(.gz) with a "
    "key "
    "`text` or `context` in every line");
  f("context_tokens", rules.context_tokens, "longest context").min(1).unit("tokens");
  f("query_tokens", rules.query_tokens, "longest question with its answer").min(2).unit("tokens");
  f("generation_tokens", rules.generation_tokens, "continuation behind the context of a text block")
      .min(1)
      .unit("tokens");
  f("truncate", rules.truncate, "which end of an over-long context is kept").one_of({"head", "tail"});
  f("char_cut", rules.char_cut, "parity: first cut to the last 6 * context_tokens characters");
  f("one_query_per_example", rules.one_query_per_example,
    "parity: encode a context anew for each of its questions");
  f("answer_in_window", rules.answer_in_window, "drop questions whose answers were all cut off");
  f("reconstruction", rules.reconstruction,
    "share of text blocks that repeat their context instead of going on")
      .min(0)
      .max(1);
  f("drop_remainder", rules.drop_remainder,
    "parity: text documents in groups of 1000, the last partial block of each dropped");
  f("padded", padded, "parity: every batch is padded to context_tokens columns");
  f("bucket_batches", bucket_batches, "micro-batches among which examples are sorted by length; 1 = none")
      .min(1);
  f("max_queries", max_queries, "questions of one context used per visit, drawn anew each epoch; 0 = all")
      .min(0);
  f("preview", preview, "examples that --dry-run shows").min(0);
}

void QuerySection::describe(Fields& f) {
  f("path", path,
    "text file (one a line) or JSONL (key `query`) of random queries; empty: those of the project");
  f("count", count, "queries drawn for a context to train on").min(1);
  f("held_out", held_out, "queries drawn for a context to measure on").min(1);
  f("continuations", continuations,
    "plain continuations of the context among the queries, from its likeliest next tokens: for memories that "
    "are "
    "to be written on from")
      .min(0);
  f("max_new", max_new, "longest answer of the teacher").min(1).unit("tokens");
}

void TrainSection::describe(Fields& f) {
  f("batch", batch, "contexts in a micro-batch").min(1);
  f("accumulate", accumulate, "micro-batches in a step").min(1);
  f("steps", steps, "optimizer steps; 0 = by epochs").min(0);
  f("epochs", epochs, "passes over the training data, used where steps is 0").min(0);
  f("lr", lr, "peak learning rate").above(0);
  f("schedule", schedule, "what follows the warm-up").one_of({"linear", "cosine", "constant"});
  f("warmup", warmup, "steps of linear rise; below 1: share of all steps").min(0);
  f("final_lr", final_lr, "share of the peak that the decay ends at").min(0).max(1);
  f("betas", betas, "AdamW: decay of the two moments").min(0).below(1);
  f("eps", eps, "AdamW: added to the denominator").above(0);
  f("weight_decay", weight_decay,
    "AdamW: decoupled decay of matrices (norms, biases and states are left alone)")
      .min(0);
  f("clip", clip, "largest global gradient norm; 0 = no clipping").min(0);
  f("gradient", gradient, "of the micro-batches of a step; sum is the rule of the ComprExIT repository")
      .one_of({"mean", "sum"});
  f("init_from", init_from, "checkpoint or run folder whose trained tensors this run starts from");
  f("init_partial", init_partial,
    "with init_from: tensors that the checkpoint lacks keep their fresh values (a higher ratio adds levels)");
  f("hidden_cache", hidden_cache,
    "folder that keeps the frozen states of the contexts (bfloat16), so that the base reads each once, over "
    "several "
    "runs too; empty = off");
  f("hidden_cache_gb", hidden_cache_gb, "most of the disk that one file of hidden_cache may take")
      .above(0)
      .unit("GB");
  f("log_every", log_every, "steps between lines of log.jsonl").min(1);
  f("valid_every", valid_every, "steps between validations; 0 = only at the end").min(0);
  f("valid_batches", valid_batches, "micro-batches of a validation").min(1);
  f("samples", samples, "questions answered at every validation, into samples.jsonl").min(0);
  f("save_every", save_every, "steps between checkpoints; 0 = only at the end").min(0);
  f("keep", keep, "newest checkpoints kept").min(1);
  f("keep_best", keep_best, "keep the checkpoint with the lowest validation loss as well");
  f("deterministic", deterministic,
    "only kernels that give the same bits every time (on a GPU; the CPU's always do)");
}

}  // namespace ctxc
