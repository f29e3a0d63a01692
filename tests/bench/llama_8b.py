#!/usr/bin/env python3
"""Proves the Llama-3.1-8B path as far as a machine without a GPU goes.

Writes a random checkpoint of the model's exact shape (bf16, four shards and an index, 16 GB), runs a forward pass over four
tokens through `ctxc-inspect trace` and reports seconds and the peak of anonymous and file-backed memory; then plans a
training run with `ctxc-train --dry-run`; then deletes the checkpoint. Standard library only.

    tests/bench/llama_8b.py [--bin build/release/bin] [--work DIR] [--keep]
"""
import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 14336, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
    "bos_token_id": 128000, "eos_token_id": 128001, "torch_dtype": "bfloat16",
}
SHARDS = 4
BLOCK = 32 << 20


def shapes():
    d, f, v, kv = 4096, 14336, 128256, 1024
    yield "model.embed_tokens.weight", [v, d]
    for layer in range(32):
        p = f"model.layers.{layer}."
        yield p + "input_layernorm.weight", [d]
        yield p + "self_attn.q_proj.weight", [d, d]
        yield p + "self_attn.k_proj.weight", [kv, d]
        yield p + "self_attn.v_proj.weight", [kv, d]
        yield p + "self_attn.o_proj.weight", [d, d]
        yield p + "post_attention_layernorm.weight", [d]
        yield p + "mlp.gate_proj.weight", [f, d]
        yield p + "mlp.up_proj.weight", [f, d]
        yield p + "mlp.down_proj.weight", [d, f]
    yield "model.norm.weight", [d]
    yield "lm_head.weight", [v, d]


def numel(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def random_bf16(count):
    """Random bf16 of magnitude 1/64 to 1/32: exponent fixed, sign and mantissa random. Little-endian bytes."""
    low = os.urandom(count).translate(bytes(b | 0x80 for b in range(256)))
    high = os.urandom(count).translate(bytes(0x3C | (b & 0x80) for b in range(256)))
    data = bytearray(2 * count)
    data[0::2], data[1::2] = low, high
    return bytes(data)


def write_model(folder):
    tensors = list(shapes())
    total = sum(2 * numel(s) for _, s in tensors)
    groups, used = [[] for _ in range(SHARDS)], 0
    for name, shape in tensors:
        groups[min(SHARDS - 1, used * SHARDS // total)].append((name, shape))
        used += 2 * numel(shape)
    noise = random_bf16(BLOCK // 2)
    weight_map = {}
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        header, offset = {}, 0
        for name, shape in group:
            size = 2 * numel(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, file), "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name, shape in group:
                size = 2 * numel(shape)
                if len(shape) == 1:
                    out.write(b"\x80\x3f" * shape[0])  # norms: 1.0
                    continue
                shift = 2 * (hash(name) % (BLOCK // 4))
                rotated = noise[shift:] + noise[:shift]
                while size:
                    size -= out.write(rotated[: min(size, BLOCK)])
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as out:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, out)
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(CONFIG, out, indent=1)
    return total


def write_case(path):
    ids = struct.pack("<4q", 128000, 791, 6864, 315)
    text = json.dumps({"in.input_ids": {"dtype": "I64", "shape": [1, 4], "data_offsets": [0, 32]}}).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + ids)


def run_watched(command):
    """Runs a command; returns seconds and the peaks of RssAnon and RssFile in bytes."""
    start = time.time()
    process = subprocess.Popen(command)
    anonymous = mapped = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                for line in status:
                    if line.startswith("RssAnon:"):
                        anonymous = max(anonymous, int(line.split()[1]) * 1024)
                    elif line.startswith("RssFile:"):
                        mapped = max(mapped, int(line.split()[1]) * 1024)
        except OSError:
            pass
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} exited {process.returncode}")
    return time.time() - start, anonymous, mapped


def read_logits(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        base = file.tell()
        entry = header["logits"]
        file.seek(base + entry["data_offsets"][0])
        data = file.read(entry["data_offsets"][1] - entry["data_offsets"][0])
    return entry["shape"], struct.unpack(f"<{len(data) // 4}f", data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--work", default=None, help="where the checkpoint is written (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="do not delete the checkpoint")
    parser.add_argument("--write-only", action="store_true", help="only write the checkpoint, into --work itself")
    args = parser.parse_args()
    if args.write_only:
        print(f"wrote {write_model(args.work or parser.error('--write-only needs --work')) / 1e9:.2f} GB of random weights")
        return
    folder = tempfile.mkdtemp(prefix="ctxc-8b-", dir=args.work)
    try:
        free = shutil.disk_usage(folder).free
        if free < 20 << 30:
            sys.exit(f"error: not enough disk (found {free >> 30} GiB free, expected 20 GiB)\nhint: --work DIR elsewhere")
        start = time.time()
        total = write_model(folder)
        print(f"wrote {total / 1e9:.2f} GB of random weights in {time.time() - start:.0f} s")
        case, out = os.path.join(folder, "case.safetensors"), os.path.join(folder, "out.safetensors")
        write_case(case)
        seconds, anonymous, mapped = run_watched(
            [os.path.join(args.bin, "ctxc-inspect"), "trace", "--model", folder, "--in", case, "--mode", "forward", "--out", out])
        shape, logits = read_logits(out)
        finite = all(x == x and abs(x) != float("inf") for x in logits)
        print(json.dumps({"forward_seconds": round(seconds, 1), "peak_anonymous_gib": round(anonymous / 2**30, 2),
                          "peak_file_backed_gib": round(mapped / 2**30, 2), "logits_shape": shape, "finite": finite}))
        if not finite:
            sys.exit("error: the logits are not finite")
        # No tokenizer of that model here: the embedded one and some text stand in. Blocks of text always have the full length.
        text = os.path.join(folder, "text.txt")
        with open(text, "w") as out:
            out.write("The river runs under the old bridge and nobody counts the boats.\n" * 20000)
        subprocess.run([os.path.join(args.bin, "ctxc-train"), "configs/comprexit_llama3.1-8b_text.yaml", "--dry-run",
                        f"backbone.path={folder}", "backbone.tokenizer=models/tiny-facts",
                        f"data.train=[{{path: {text}, format: text}}]"], check=True)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
