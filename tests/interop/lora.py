"""Adapters that ctxc-run compile --keep-lora kept, in other programs, on the embedded base.

peft-lora: transformers and peft repeat the compile pass (base over header and context, adapter on for the buffers' rows) and
get the values of the artifact's slots. llamacpp-lora: llama-server with the adapter gives the log-probabilities of peft.
"""
import json
import pathlib
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from peft_prompt import ROOT, ctxc  # noqa: E402

TEXT = ("Notes: Boris lives in Oslo. The market sells soup. Boris works as a pilot. Boris likes honey. Boris owns a boat. "
        "The road to Lima is long.")
BASE = ROOT / "models/tiny-facts"


def compile_text(work):
    (work / "text.txt").write_text(TEXT)
    # A large step and no choice among states: the adapters matter, and the memory is that of the last step.
    ctxc("ctxc-run", "compile", "--model", BASE, "--text", work / "text.txt", "--out", work / "m.safetensors", "--keep-lora",
         work / "lora.safetensors", "--preset", "small", "compressor.ratio=4", "compressor.storage=float32",
         "compressor.lora.rank=4", "compressor.recon.chunk=16", "queries.count=2", "queries.held_out=1", "queries.max_new=2",
         "train.steps=40", "train.warmup=0", "train.lr=1.0e-2", "train.valid_every=0", "--quiet")
    with safe_open(work / "lora.safetensors", "pt") as file:
        if json.loads(file.metadata()["ctxc"])["step"] == 0:
            sys.exit("the untrained state was chosen: the comparison proves nothing")
    for target, out in (("peft-lora", "peft"), ("llamacpp-lora", "lora.gguf")):
        ctxc("ctxc-export", "--in", work / "lora.safetensors", "--to", target, "--out", work / out)


def check_compile_pass(model, tokenizer, work):
    """The slots' values; keys are the same product, turned to other places."""
    with safe_open(work / "m.safetensors", "pt") as file:
        header = json.loads(file.metadata()["ctxc"])["header_token_ids"]
        expected = file.get_tensor("v")[:, :, len(header):]
    ids = torch.tensor([header + tokenizer(TEXT, add_special_tokens=False).input_ids])
    buffers = load_file(work / "peft/buffers.safetensors")["buffers"][None]
    with torch.no_grad():
        with model.disable_adapter():
            cache = model(input_ids=ids, use_cache=True).past_key_values
            plain = values_of(model, buffers, ids, model(input_ids=ids, use_cache=True).past_key_values)
        found = values_of(model, buffers, ids, cache)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    without = ((plain - expected).abs().max() / expected.abs().max()).item()
    print(f"peft-lora: relative difference of the slots' values {difference:.1e}, without the adapter {without:.1e}")
    if not difference <= 1e-4 or not without > 1e-2:
        sys.exit("the compile pass in peft gives other slots than ctxc")


def values_of(model, buffers, ids, cache):
    mask = torch.ones(1, ids.shape[1] + buffers.shape[1], dtype=torch.long)
    out = model(inputs_embeds=buffers, past_key_values=cache, attention_mask=mask, use_cache=True).past_key_values
    layers = [layer.values for layer in out.layers]
    return torch.stack([layer[0, :, ids.shape[1]:] for layer in layers])


def check_llama_cpp(model, tokenizer, work):
    import xllamacpp
    from llamacpp_state import complete, largest_difference, start_server
    from tiny_gguf import write_gguf
    write_gguf(BASE, work / "tiny.gguf")
    ids = tokenizer("Boris lives in", add_special_tokens=False).input_ids
    differences = []
    for adapters in (True, False):
        params = xllamacpp.CommonParams()
        if adapters:
            info = xllamacpp.CommonAdapterLoraInfo(str(work / "lora.gguf"), 1.0)
            params.lora_adapters = [info]
        server = start_server(work / "tiny.gguf", work, "off", "f32", params)
        found = complete(server, 0, ids, model.config.vocab_size)
        with torch.no_grad():
            differences.append(largest_difference(found, model(input_ids=torch.tensor([ids])).logits[0, -1]))
        del server
    print(f"llamacpp-lora: largest difference of a log-probability {differences[0]:.1e}, without the adapter "
          f"{differences[1]:.1e}")
    if not differences[0] <= 1e-4 or not differences[1] > 1e-2:
        sys.exit("llama-server reads the adapter otherwise than peft")


def main(work):
    compile_text(work)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, work / "peft").eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    check_compile_pass(model, tokenizer, work)
    check_llama_cpp(model, tokenizer, work)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(pathlib.Path(name))
