"""Loads what ctxc-export --to peft-prompt wrote with the real peft and transformers packages and compares the logits and
the greedy tokens with those of ctxc-run ask.

Everything is made here: a small random Llama by transformers, the tokenizer of models/tiny-facts, a memory of random
rows. Exit code 0 if the logits agree to 1e-4 of their largest value and all tokens are equal.
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(os.environ.get("CTXC_ROOT", pathlib.Path(__file__).resolve().parents[2]))
BIN = pathlib.Path(os.environ.get("CTXC_BIN", ROOT / "build/release/bin"))
QUESTION = "Where does Ada live?"
SLOTS, NEW_TOKENS, TOLERANCE, ROPE_THETA = 7, 12, 1e-4, 10000.0  # transformers 5 keeps theta elsewhere than 4


def ctxc(program, *arguments):
    done = subprocess.run([BIN / program, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def make_base(folder):
    """A random Llama with grouped heads, larger weights than usual so that the logits are far from flat."""
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=956, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=1,
                         tie_word_embeddings=False)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/tiny-facts" / name, folder / name)
    return model


def stored_fingerprint(folder):
    """export-formats.md section 1, computed independently of ctxc from the bytes of the file."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    digest = hashlib.sha256()
    for name in sorted(header):
        entry = header[name]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        digest.update(f"{name}\0{entry['dtype']}\0{','.join(map(str, entry['shape']))}\0".encode())
        digest.update(data[begin:end][:4096])
        digest.update(data[begin:end][-4096:])
    return digest.hexdigest()


def make_memory(path, base, model):
    """A memory of BOS and random rows, written by hand as the format's page says."""
    seen = ctxc("ctxc-inspect", base, "--json")
    fingerprint = stored_fingerprint(base)
    if seen["weights_fingerprint"] != fingerprint:
        sys.exit(f"weights fingerprint differs: {seen['weights_fingerprint']} from ctxc, {fingerprint} from the page")
    config = model.config
    slots = 0.5 * torch.randn(SLOTS, config.hidden_size, generator=torch.Generator().manual_seed(5))
    embeds = torch.cat([model.get_input_embeddings().weight[:1].detach(), slots]).contiguous()
    info = {"format_version": 1, "kind": "embeds", "method": "test", "n_slots": SLOTS, "n_header": 1,
            "header_token_ids": [0], "positions": {"first": 0, "count": SLOTS + 1, "rotated": True},
            "model": {"name_or_path": str(base), "architecture": "LlamaForCausalLM",
                      "num_hidden_layers": config.num_hidden_layers, "num_key_value_heads": config.num_key_value_heads,
                      "head_dim": config.head_dim, "hidden_size": config.hidden_size, "vocab_size": config.vocab_size,
                      "rope_theta": ROPE_THETA, "rope_scaling": None, "weights_fingerprint": fingerprint,
                      "dtype": "F32"},
            "tokenizer_sha256": seen["tokenizer"]["sha256"]}
    save_file({"embeds": embeds}, path, metadata={"ctxc": json.dumps(info), "format": "pt"})


def compare(work):
    base, memory = work / "base", work / "memory.safetensors"
    model = make_base(base)
    make_memory(memory, base, model)
    ctxc("ctxc-export", "--in", memory, "--to", "peft-prompt", "--out", work / "adapter")
    answer = ctxc("ctxc-run", "ask", "--memory", memory, "--model", base, "--raw", "--json", "--logits",
                  work / "logits.safetensors", "--max-new-tokens", str(NEW_TOKENS), QUESTION)
    ours = load_file(work / "logits.safetensors")

    ids = ours["input_ids"]
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(model, work / "adapter").eval()
        theirs = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1]:]
        generated = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                                     do_sample=False)[0, ids.shape[1]:].tolist()
    difference = ((ours["logits"] - theirs).abs().max() / theirs.abs().max()).item()
    print(f"logits of {ids.shape[1]} tokens after {SLOTS + 1} rows: relative difference {difference:.1e}")
    print(f"greedy tokens: ctxc {answer['tokens']}, peft {generated}")
    if difference > TOLERANCE or answer["tokens"] != generated:
        sys.exit("peft and ctxc disagree")
    if (alone - theirs).abs().max() < 0.01:
        sys.exit("the memory changes nothing: the comparison proves nothing")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        compare(pathlib.Path(folder))
