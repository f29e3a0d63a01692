"""Loads what ctxc-export writes for memories of kind kv (hf-cache, peft-prefix) and embeds (vllm-embeds) with the real
transformers, peft and torch packages, and compares logits and greedy tokens with those of ctxc-run ask.

Everything is made here: a small random Llama by transformers, the tokenizer of models/tiny-facts, a memory of BOS and
random rows of kind embeds, turned into kind kv by one prefill of ctxc (ctxc-export --to kv).
"""
import base64
import io
import json
import pathlib
import sys
import tempfile

import peft
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from peft_prompt import NEW_TOKENS, QUESTION, SLOTS, TOLERANCE, ctxc, make_base, make_memory  # noqa: E402


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def check(name, difference, tokens, expected):
    print(f"{name}: relative difference of logits {difference:.1e}, greedy tokens {tokens}")
    if not difference <= TOLERANCE or tokens != expected:  # a NaN disagrees
        sys.exit(f"{name} and ctxc disagree (ctxc: {expected})")


def check_cache(model, folder, ids, ours, expected):
    sys.path.insert(0, str(folder))
    import load_cache
    with torch.no_grad():
        logits = model(input_ids=ids, **{load_cache.argument(model): load_cache.load_cache(model)}).logits
        tokens = load_cache.generate(model, ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    check("transformers, DynamicCache", relative(logits, ours), tokens, expected)


def check_prefix(name, model, folder, ids, ours, expected):
    adapted = PeftModel.from_pretrained(model, folder).eval()
    both = ids.repeat(2, 1)
    with torch.no_grad():
        logits = adapted(input_ids=both, attention_mask=torch.ones_like(both)).logits[:, -ids.shape[1]:]
        tokens = adapted.generate(input_ids=both, attention_mask=torch.ones_like(both), max_new_tokens=NEW_TOKENS,
                                  do_sample=False)[:, ids.shape[1]:].tolist()
    if tokens[0] != tokens[1]:
        sys.exit(f"{name}: the rows of a batch of two differ")
    check(f"{name}, batch of two", relative(logits, ours.repeat(2, 1, 1)), tokens[0], expected)


def check_vllm(folder, rows):
    """What the server does: base64, torch.load(weights_only=True), a tensor of two dimensions."""
    request = json.loads((folder / "request_chat.json").read_text())
    parts = request["messages"][0]["content"]
    slots = torch.load(io.BytesIO(base64.b64decode(parts[0]["data"], validate=True)), weights_only=True)
    whole = torch.load(folder / "rows.pt", weights_only=True)
    if not (torch.equal(slots, rows[1:]) and torch.equal(whole, rows) and slots.dim() == 2):
        sys.exit("vllm-embeds: torch.load gives other rows")
    print(f"vllm-embeds: torch.load(weights_only=True) gives {tuple(slots.shape)} {slots.dtype}")


def main(work):
    base, soft, memory = work / "base", work / "soft.safetensors", work / "memory.safetensors"
    model = make_base(base)
    make_memory(soft, base, model)
    ctxc("ctxc-export", "--in", soft, "--to", "kv", "--out", memory)
    ask = ["--model", base, "--raw", "--json", "--max-new-tokens", str(NEW_TOKENS), QUESTION]
    answer = ctxc("ctxc-run", "ask", "--memory", memory, "--logits", work / "logits.safetensors", *ask)
    ours = load_file(work / "logits.safetensors")
    if ctxc("ctxc-run", "ask", "--memory", soft, *ask)["tokens"] != answer["tokens"]:
        sys.exit("ctxc answers differently from the two kinds of one memory")
    ids, logits, expected = ours["input_ids"], ours["logits"], answer["tokens"]
    with torch.no_grad():
        if not (model(input_ids=ids).logits - logits).abs().max() > 0.01:
            sys.exit("the memory changes nothing: the comparison proves nothing")
    for target in ("hf-cache", "peft-prefix", "peft-cartridge"):
        ctxc("ctxc-export", "--in", memory, "--to", target, "--out", work / target)
    ctxc("ctxc-export", "--in", soft, "--to", "vllm-embeds", "--out", work / "vllm")
    check_cache(model, work / "hf-cache", ids, logits, expected)
    check_vllm(work / "vllm", load_file(soft)["embeds"])
    for kind, target in (("PREFIX_TUNING", "peft-prefix"), ("CARTRIDGE", "peft-cartridge")):
        if kind in peft.PeftType.__members__:
            # PeftModel changes the model it is given.
            check_prefix(f"peft {peft.__version__}, {kind}", LlamaForCausalLM.from_pretrained(base).eval(), work / target,
                         ids, logits, expected)
        elif target == "peft-prefix":
            sys.exit(f"peft {peft.__version__} has no {kind}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(folder))
