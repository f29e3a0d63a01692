"""Restores what ctxc-export --to llamacpp-state wrote into a slot of a stock llama-server (of the xllamacpp wheel, on
SmolLM2-135M) over HTTP and compares its greedy tokens with those of ctxc-run ask; without the state the same prompt must
give something else. Both layouts: flash attention on and off, float32 and float16 caches.

Skips where xllamacpp or the model (scripts/setup.sh) is absent.
"""
import json
import pathlib
import sys
import tempfile
import time
import urllib.request

from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from peft_prompt import ROOT, ctxc  # noqa: E402

try:
    import xllamacpp
except ImportError:
    print("CTXC_SKIP_WHOLE_TEST: xllamacpp is not installed")
    sys.exit(0)

TEXT = ("The lighthouse of Norrvik was built in 1871 by the engineer Karin Ekdahl. Its lamp burned rapeseed oil until 1903, when "
        "a petroleum lamp took its place. The keeper, Olof Brandt, kept a diary for forty years and counted every ship.")
QUESTION = "\n\nWho built the lighthouse?<|im_end|>\n<|im_start|>assistant\n"
NEW_TOKENS, PLACEHOLDER = 8, 3


def start_server(model, folder, flash, dtype):
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.slot_save_path = str(folder) + "/"
    params.n_ctx, params.n_parallel, params.port, params.warmup = 1024, 1, 0, False
    params.cpuparams.n_threads = 1
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
            return json.loads(urllib.request.urlopen(request, timeout=900).read())
        except urllib.error.HTTPError as error:
            if error.code != 503:  # still loading
                sys.exit(f"{path}: {error.code} {error.read().decode()}")
            time.sleep(0.5)
    sys.exit("the server does not become ready")


def complete(server, rows, ids):
    answer = post(server, "/completion", {"prompt": [PLACEHOLDER] * rows + ids, "id_slot": 0, "cache_prompt": True,
                                          "n_predict": NEW_TOKENS, "temperature": 0, "return_tokens": True})
    return answer["tokens"], answer["timings"].get("cache_n", answer.get("tokens_cached"))


def main(work):
    models = sorted((ROOT / ".deps/models").glob("*.gguf"))
    if not models:
        print("CTXC_SKIP_WHOLE_TEST: .deps/models holds no GGUF")
        return
    memory, logits = work / "memory.safetensors", work / "logits.safetensors"
    (work / "text.txt").write_text(TEXT)
    # One slot for two tokens; quality is not the point, a memory that matters is.
    ctxc("ctxc-run", "compile", "--model", models[0], "--text", work / "text.txt", "--out", memory, "--preset", "small",
         "compressor.ratio=2", "compressor.optimise=kv", "compressor.storage=float32", "compressor.recon.chunk=16",
         "queries.count=2", "queries.held_out=1", "queries.max_new=2", "train.steps=2", "train.valid_every=0", "--quiet")
    answer = ctxc("ctxc-run", "ask", "--memory", memory, "--raw", "--json", "--max-new-tokens", str(NEW_TOKENS),
                  "--logits", logits, QUESTION)
    ids = load_file(logits)["input_ids"][0].tolist()
    record = ctxc("ctxc-inspect", memory, "--json")["record"]
    rows = record["n_slots"] + record["n_header"]
    for flash, dtype in (("on", "f32"), ("off", "f32"), ("on", "f16")):
        folder = work / f"slots-{flash}-{dtype}"
        folder.mkdir()
        ctxc("ctxc-export", "--in", memory, "--to", "llamacpp-state", "--out", folder / "memory.bin", "--dtype", dtype,
             "--llama-flash-attention", flash, "--llama-placeholder", str(PLACEHOLDER))
        server = start_server(models[0], folder, flash, dtype)
        without, _ = complete(server, rows, ids)
        post(server, "/slots/0?action=erase", {})
        post(server, "/slots/0?action=restore", {"filename": "memory.bin"})
        tokens, cached = complete(server, rows, ids)
        print(f"flash attention {flash}, {dtype}: {rows} rows, {cached} from the cache; llama-server {tokens}, "
              f"ctxc {answer['tokens']}, without the state {without}")
        agree = sum(a == b for a, b in zip(tokens, answer["tokens"]))
        # ctxc multiplies dequantised weights, llama.cpp quantises the activations: late tokens may part.
        if agree < (3 if dtype == "f16" else 4) or tokens == without:
            sys.exit("llama-server does not read the memory as ctxc does")
        del server


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(pathlib.Path(name))
