"""Asks the exports of one memory in OUT in transformers, PEFT and llama.cpp, and compares with ctxc's answers; in the first two
also all logits behind the prompt, and both questions as one batch.

usage: engines.py MODEL.gguf OUT QUESTION QUESTION
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


def transformers_and_peft(model_path, out, prompts, new_tokens):
    """(engine, new tokens of each prompt)"""
    base = AutoModelForCausalLM.from_pretrained(model_path.parent, gguf_file=model_path.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path.parent, gguf_file=model_path.name)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    asked = [load_file(out / f"ctxc-{i}.safetensors") for i in range(len(prompts))]
    for prompt, ours in zip(prompts, asked):
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        if ours["input_ids"].tolist() != [ids]:
            sys.exit(f"transformers reads the prompt as other tokens (found {ids}, ctxc {ours['input_ids'].tolist()})")
    batch = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    ids, mask = batch.input_ids, batch.attention_mask
    if mask.all():
        sys.exit("the questions are of one length: nothing is padded")
    options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}

    sys.path.insert(0, str(out / "hf-cache"))
    import load_cache
    with torch.no_grad():
        compare("transformers without the memory", base(input_ids=asked[0]["input_ids"]).logits, asked[0]["logits"], equal=False)
        for ours in asked:
            both = ours["input_ids"].repeat(2, 1)
            cached = base(input_ids=both, **{load_cache.argument(base): load_cache.load_cache(base, batch=2)}).logits
            compare(f"transformers {transformers.__version__}, batch of two", cached, ours["logits"].repeat(2, 1, 1))
        yield "transformers", load_cache.generate(base, ids, attention_mask=mask, **options).tolist()
        adapted = PeftModel.from_pretrained(base, out / "peft-prefix").eval()
        answers = []
        for ours in asked:  # one question twice: PEFT drops the positions that rows padded on the left need
            both = ours["input_ids"].repeat(2, 1)
            there = {"input_ids": both, "attention_mask": torch.ones_like(both)}
            prefixed = adapted(**there).logits[:, -both.shape[1]:]
            compare(f"peft {peft.__version__}, batch of two", prefixed, ours["logits"].repeat(2, 1, 1))
            rows = adapted.generate(**there, **options)[:, both.shape[1]:].tolist()
            if rows[0] != rows[1]:
                sys.exit(f"peft: the rows of a batch of two differ ({rows})")
            answers.append(rows[0])
        yield "peft", answers


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


def llama_cpp(model_path, out, prompts, rows, new_tokens):
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.slot_save_path = str(model_path), str(out / "slots") + "/"
    params.n_ctx, params.n_parallel, params.port, params.warmup = 1024, 1, 0, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    for prompt in prompts:
        post(server, "/slots/0?action=restore", {"filename": "memory.bin"})
        answer = post(server, "/completion", {"prompt": [0] * rows + [prompt], "id_slot": 0, "cache_prompt": True,
                                              "n_predict": new_tokens, "temperature": 0, "return_tokens": True})
        if answer["timings"]["cache_n"] != rows:
            sys.exit(f"llama.cpp took {answer['timings']['cache_n']} of {rows} rows from the slot")
        yield answer["tokens"]


def main(model_path, out, *questions):
    out = pathlib.Path(out).resolve()
    expected = [json.loads((out / f"ctxc-{i}.json").read_text())["tokens"] for i in range(len(questions))]
    new_tokens = max(map(len, expected))
    config = json.loads((out / "peft-prefix/adapter_config.json").read_text())
    model_path = pathlib.Path(model_path).resolve()
    prompts = [f"\n\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in questions]
    found = list(transformers_and_peft(model_path, out, prompts, new_tokens))
    found.append(("llama.cpp", list(llama_cpp(model_path, out, prompts, config["num_virtual_tokens"], new_tokens))))
    for name, answers in found:
        for tokens, ours in zip(answers, expected):
            print(f"{name}: {tokens}")
            # llama.cpp multiplies quantised weights with rounded activations: late tokens may part.
            compared = 4 if name == "llama.cpp" else len(ours)
            if tokens[:compared] != ours[:compared]:
                sys.exit(f"{name} and ctxc disagree (ctxc: {ours})")
    print("all answer as ctxc does")


main(*sys.argv[1:])
