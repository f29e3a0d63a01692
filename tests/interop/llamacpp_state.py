"""Restores what ctxc-export --to llamacpp-state wrote into a slot of a stock llama-server (of the xllamacpp wheel) over HTTP
and compares with ctxc-run ask. On the embedded base and on SmolLM2-135M (left out where scripts/setup.sh did not fetch it), both
in float32: all log-probabilities of the first new token, and the greedy tokens. On SmolLM2-135M as it is shipped: the first
greedy tokens; llama.cpp multiplies its quantised weights with activations that it rounds, so later ones may part. Without the state the same prompt
must give something else. What the server saves again is a form for --llama-state-like. Both layouts of the values: flash
attention on and off. A server of two slots, whose files have another form, reads one memory into both and answers from both at once.
"""
import concurrent.futures
import json
import pathlib
import sys
import tempfile
import time
import urllib.error
import urllib.request

import torch
import xllamacpp
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from peft_prompt import ROOT, ctxc  # noqa: E402
from tiny_gguf import write_dequantised, write_gguf  # noqa: E402

LIGHTHOUSE = ("The lighthouse of Norrvik was built in 1871 by the engineer Karin Ekdahl. Its lamp burned rapeseed oil until "
              "1903, when a petroleum lamp took its place. The keeper, Olof Brandt, kept a diary for forty years.")
PEOPLE = ("Notes: Boris lives in Oslo. The market sells soup. Boris works as a pilot. Boris likes honey. Boris owns a boat. "
          "The road to Lima is long.")
NEW_TOKENS, PLACEHOLDER = 8, 3
# Largest difference of a log-probability on float32 weights, over the largest of all; llama.cpp's flash attention computes in
# float16 on CPUs.
TOLERANCE = {"off": 1e-4, "on": 1e-3}


def start_server(model, folder, flash, dtype, params=None, slots=1):
    params = params or xllamacpp.CommonParams()
    params.model.path = str(model)
    params.slot_save_path = str(folder) + "/"
    params.n_ctx, params.n_parallel, params.port, params.warmup = 256 * slots, slots, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    kind = xllamacpp.ggml_type.GGML_TYPE_F32 if dtype == "f32" else xllamacpp.ggml_type.GGML_TYPE_F16
    params.cache_type_k = params.cache_type_v = kind
    types = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = types.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash == "on" else types.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def post(server, path, body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    for _ in range(60):
        try:
            return json.loads(urllib.request.urlopen(request, timeout=120).read())
        except urllib.error.HTTPError as error:
            if error.code != 503:  # still loading
                sys.exit(f"{path}: {error.code} {error.read().decode()}")
            time.sleep(0.5)
    sys.exit("the server does not become ready")


def complete(server, rows, ids, probabilities, slot=0):
    return post(server, "/completion", {"prompt": [PLACEHOLDER] * rows + ids, "id_slot": slot, "cache_prompt": True,
                                        "n_predict": NEW_TOKENS, "temperature": 0, "return_tokens": True,
                                        "n_probs": probabilities})


def largest_difference(answer, logits):
    """Of the log-probabilities of the first new token, all of which the server lists; relative to the largest."""
    ours = torch.log_softmax(logits.double(), 0)
    listed = answer["completion_probabilities"][0]["top_logprobs"]
    if len(listed) != len(ours):
        sys.exit(f"the server lists {len(listed)} of {len(ours)} tokens")
    return max(abs(entry["logprob"] - ours[entry["id"]].item()) for entry in listed) / ours.abs().max().item()


def check(base, text, question, work, ratio, exact):
    memory, logits = work / "memory.safetensors", work / "logits.safetensors"
    (work / "text.txt").write_text(text)
    # Quality is not the point: a memory that changes the answer is.
    ctxc("ctxc-run", "compile", "--model", base, "--text", work / "text.txt", "--out", memory, "--preset", "small",
         f"compressor.ratio={ratio}", "compressor.optimise=kv", "compressor.storage=float32", "compressor.recon.chunk=16",
         "queries.count=2", "queries.held_out=1", "queries.max_new=2", "train.steps=2", "train.valid_every=0", "--quiet")
    answer = ctxc("ctxc-run", "ask", "--memory", memory, "--raw", "--json", "--max-new-tokens", str(NEW_TOKENS),
                  "--logits", logits, question)
    asked = load_file(logits)
    ids, expected = asked["input_ids"][0].tolist(), answer["tokens"]
    record = ctxc("ctxc-inspect", memory, "--json")["record"]
    rows = record["n_slots"] + record["n_header"]
    for flash, dtype in (("on", "f32"), ("off", "f32"), ("on", "f16")):
        folder = work / f"slots-{flash}-{dtype}"
        folder.mkdir()
        ctxc("ctxc-export", "--in", memory, "--to", "llamacpp-state", "--out", folder / "memory.bin", "--dtype", dtype,
             "--llama-flash-attention", flash, "--llama-placeholder", str(PLACEHOLDER))
        server = start_server(base, folder, flash, dtype)
        probabilities = asked["logits"].shape[-1] if exact else 0
        without = complete(server, rows, ids, 0)["tokens"]
        post(server, "/slots/0?action=erase", {})
        post(server, "/slots/0?action=restore", {"filename": "memory.bin"})
        found = complete(server, rows, ids, probabilities)
        tokens, cached = found["tokens"], found["timings"]["cache_n"]
        print(f"{base.name}, flash attention {flash}, {dtype}: {cached} of {rows} rows from the slot; llama-server "
              f"{tokens}, ctxc {expected}, without the state {without}", flush=True)
        compared = len(expected) if exact else 4
        if cached != rows or tokens[:compared] != expected[:compared] or without[:compared] == expected[:compared]:
            sys.exit("llama-server does not read the memory as ctxc does")
        if exact:
            difference = largest_difference(found, asked["logits"][0, -1])
            print(f"  largest relative difference of a log-probability {difference:.1e}")
            if not difference <= TOLERANCE[flash]:
                sys.exit("llama-server computes other logits than ctxc")
        post(server, "/slots/0?action=save", {"filename": "own.bin"})
        del server
        check_like(memory, folder, dtype)
    if exact:
        check_two_slots(base, memory, rows, ids, expected, work / "two")


def check_two_slots(base, memory, rows, ids, expected, folder):
    folder.mkdir()
    server = start_server(base, folder, "on", "f32", slots=2)
    complete(server, rows, ids, 0, slot=1)
    post(server, "/slots/1?action=save", {"filename": "own.bin"})
    ctxc("ctxc-export", "--in", memory, "--to", "llamacpp-state", "--out", folder / "memory.bin", "--llama-state-like",
         folder / "own.bin", "--llama-placeholder", str(PLACEHOLDER))
    for slot in (0, 1):
        post(server, f"/slots/{slot}?action=erase", {})
        post(server, f"/slots/{slot}?action=restore", {"filename": "memory.bin"})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = [pool.submit(complete, server, rows, ids, 0, slot) for slot in (0, 1)]
    found = [(answer.result()["timings"]["cache_n"], answer.result()["tokens"]) for answer in answers]
    print(f"{base.name}, two slots at once: {found}", flush=True)
    if found != [(rows, expected)] * 2:
        sys.exit(f"llama-server does not read the memory from two slots as ctxc does (ctxc: {expected})")
    del server


def check_like(memory, folder, dtype):
    """A file that the server saved serves as the form, its first id (the placeholder) included."""
    ctxc("ctxc-export", "--in", memory, "--to", "llamacpp-state", "--out", folder / "like.bin", "--dtype", dtype,
         "--llama-state-like", folder / "own.bin")
    if (folder / "like.bin").read_bytes() != (folder / "memory.bin").read_bytes():
        sys.exit("a state in the form of the server's own file is another one")


def main(work):
    tiny = work / "tiny-facts.gguf"
    write_gguf(ROOT / "models/tiny-facts", tiny)
    (work / "tiny").mkdir()
    check(tiny, PEOPLE, "Question: Boris likes", work / "tiny", ratio=1, exact=True)
    for model in sorted((ROOT / ".deps/models").glob("SmolLM2*.gguf"))[:1]:
        whole = work / f"{model.stem}.float32.gguf"
        write_dequantised(model, whole)
        for base, exact in ((whole, True), (model, False)):
            (work / base.stem).mkdir()
            check(base, LIGHTHOUSE, "\n\nWho built the lighthouse?<|im_end|>\n<|im_start|>assistant\n", work / base.stem,
                  ratio=2, exact=exact)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(pathlib.Path(name))
