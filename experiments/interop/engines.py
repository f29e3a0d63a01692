"""Asks the exports of one memory in OUT in transformers, PEFT and llama.cpp, and compares with ctxc's answer; in the first two
also all logits behind the prompt.

usage: engines.py MODEL.gguf OUT QUESTION
"""
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

import peft
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4  # of a logit in float32, in nats


def transformers_and_peft(model_path, out, prompt, new_tokens):
    base = AutoModelForCausalLM.from_pretrained(model_path.parent, gguf_file=model_path.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path.parent, gguf_file=model_path.name)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids

    asked = load_file(out / "ctxc.safetensors")
    if asked["input_ids"].tolist() != ids.tolist():
        sys.exit(f"transformers reads the prompt as other tokens (found {ids.tolist()}, ctxc {asked['input_ids'].tolist()})")

    sys.path.insert(0, str(out / "hf-cache"))
    import load_cache
    with torch.no_grad():
        compare("transformers without the memory", base(input_ids=ids).logits, asked["logits"], equal=False)
        cached = base(input_ids=ids, **{load_cache.argument(base): load_cache.load_cache(base)}).logits
        compare(f"transformers {transformers.__version__}", cached, asked["logits"])
        yield "transformers", load_cache.generate(base, ids, max_new_tokens=new_tokens, do_sample=False)[0].tolist()
        adapted = PeftModel.from_pretrained(base, out / "peft-prefix").eval()
        prefixed = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
        compare(f"peft {peft.__version__}", prefixed, asked["logits"])
        tokens = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens,
                                  do_sample=False)
        yield "peft", tokens[0, ids.shape[1]:].tolist()


def compare(name, found, expected, equal=True):
    difference = (found - expected).abs().max().item()
    print(f"{name}: largest difference of a logit {difference:.1e}")
    if (difference <= TOLERANCE) != equal:
        sys.exit(f"{name} and ctxc {'disagree' if equal else 'agree: the memory changes nothing'}")


def post(server, path, body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    for _ in range(60):
        try:
            return json.loads(urllib.request.urlopen(request, timeout=300).read())
        except urllib.error.HTTPError as error:
            if error.code != 503:  # still loading
                sys.exit(f"{path}: {error.code} {error.read().decode()}")
            time.sleep(0.5)
    sys.exit("the server does not become ready")


def llama_cpp(model_path, out, prompt, rows, new_tokens):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.slot_save_path = str(model_path), str(out / "slots") + "/"
    params.n_ctx, params.n_parallel, params.port, params.warmup = 1024, 1, 0, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    post(server, "/slots/0?action=restore", {"filename": "memory.bin"})
    answer = post(server, "/completion", {"prompt": [0] * rows + [prompt], "id_slot": 0, "cache_prompt": True,
                                          "n_predict": new_tokens, "temperature": 0, "return_tokens": True})
    if answer["timings"]["cache_n"] != rows:
        sys.exit(f"llama.cpp took {answer['timings']['cache_n']} of {rows} rows from the slot")
    return answer["tokens"]


def main(model_path, out, question):
    out = pathlib.Path(out).resolve()
    expected = json.loads((out / "ctxc.json").read_text())["tokens"]
    config = json.loads((out / "peft-prefix/adapter_config.json").read_text())
    model_path = pathlib.Path(model_path).resolve()
    prompt = f"\n\n{question}<|im_end|>\n<|im_start|>assistant\n"
    found = list(transformers_and_peft(model_path, out, prompt, len(expected)))
    found.append(("llama.cpp", llama_cpp(model_path, out, prompt, config["num_virtual_tokens"], len(expected))))
    for name, tokens in found:
        print(f"{name}: {tokens}")
        # llama.cpp multiplies quantised weights with rounded activations: late tokens may part.
        compared = 4 if name == "llama.cpp" else len(expected)
        if tokens[:compared] != expected[:compared]:
            sys.exit(f"{name} and ctxc disagree (ctxc: {expected})")
    print("all answer as ctxc does")


main(*sys.argv[1:])
