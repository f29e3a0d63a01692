#!/usr/bin/env python3
"""One ComprExIT next-token training step in Python, for comparison with ctxc-train.

A faithful PyTorch implementation of the published step (paper arXiv 2602.03784) on top of Hugging Face transformers:
frozen Llama as encoder and decoder, depth-wise gate over all hidden states, width-wise entropic transport with 30 unrolled
Sinkhorn iterations, two-layer projector, cross-entropy on the continuation, clip, AdamW. Shapes are given on the command
line; weights are random (timing does not depend on their values). Prints one JSON object.

Run by tests/bench/step_bench.py; needs the environment of scripts/interop.sh.
"""
import argparse
import json
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn


class Compressor(nn.Module):
    def __init__(self, hidden, states, ratio, window, gate, metric, iterations):
        super().__init__()
        self.ratio, self.window, self.iterations, self.gate = ratio, window, iterations, gate
        self.query_fusion = nn.Parameter(torch.zeros(states))
        self.layer_embeddings = nn.Parameter(torch.randn(states, gate) * 0.02)
        self.q, self.k, self.v = nn.Linear(hidden, gate), nn.Linear(hidden, gate), nn.Linear(hidden, hidden)
        self.metric_ln, self.metric = nn.LayerNorm(hidden), nn.Linear(hidden, metric)
        self.value_ln, self.value = nn.LayerNorm(hidden), nn.Linear(hidden, hidden)
        self.mass_ln, self.mass = nn.LayerNorm(hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.mass.weight)
        nn.init.zeros_(self.mass.bias)
        self.projector = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        for layer in (self.projector[0], self.projector[2]):
            nn.init.xavier_uniform_(layer.weight, gain=0.4)
            nn.init.zeros_(layer.bias)

    def fuse(self, states):  # states [B, T, S, H]
        pooled = torch.einsum("s,btsh->bth", self.query_fusion.softmax(0), states)
        query = self.q(pooled)
        keys = self.k(states) + self.layer_embeddings
        score = torch.einsum("btd,btsd->bts", query, keys) / self.gate**0.5 / 0.7
        return torch.einsum("bts,btsh->bth", score.softmax(-1), self.v(states))

    def forward(self, states):
        x = self.fuse(states)
        batch, tokens, hidden = x.shape
        windows, slots = tokens // self.window, self.window // self.ratio
        x = x.view(batch * windows, self.window, hidden)
        anchors = x.view(batch * windows, slots, self.ratio, hidden).mean(2)
        u = F.normalize(self.metric(self.metric_ln(x)), dim=-1)
        w = F.normalize(self.metric(self.metric_ln(anchors)), dim=-1)
        kernel = -(1 - u @ w.transpose(1, 2)) / 0.1
        mass = self.mass(self.mass_ln(x)).squeeze(-1).softmax(-1)
        a = 0.95 * mass + 0.05 / self.window
        log_a = a.clamp_min(1e-20).log()
        log_b = torch.full((x.size(0), slots), -float(torch.tensor(float(slots)).log()))
        f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
        for _ in range(self.iterations):
            f = log_a - torch.logsumexp(kernel + g[:, None, :], 2)
            g = log_b - torch.logsumexp(kernel + f[:, :, None], 1)
        plan = torch.exp(kernel + f[:, :, None] + g[:, None, :])
        z = plan.transpose(1, 2) @ self.value(self.value_ln(x)) * slots
        return self.projector(z.view(batch, windows * slots, hidden))


def main():
    parser = argparse.ArgumentParser()
    for name, value in dict(hidden=576, layers=30, heads=9, kv_heads=3, ffn=1536, vocab=49152, batch=2, context=256,
                            generation=64, ratio=4, window=128, gate=256, metric=256, iterations=30, steps=4,
                            warmup=1, threads=1).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the frozen base")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=args.vocab, hidden_size=args.hidden, num_hidden_layers=args.layers,
                         num_attention_heads=args.heads, num_key_value_heads=args.kv_heads,
                         intermediate_size=args.ffn, tie_word_embeddings=True, max_position_embeddings=8192)
    dtype = getattr(torch, args.dtype)
    model = LlamaForCausalLM(config).eval().requires_grad_(False).to(dtype)
    compressor = Compressor(args.hidden, args.layers + 1, args.ratio, args.window, args.gate, args.metric, args.iterations)
    optimizer = torch.optim.AdamW(compressor.parameters(), lr=1e-4, weight_decay=0)
    embed = model.get_input_embeddings()
    times = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        ids = torch.randint(0, args.vocab, (args.batch, args.context + args.generation))
        context, target = ids[:, : args.context], ids[:, args.context:]
        with torch.no_grad():
            hidden = model.model(context, output_hidden_states=True).hidden_states
        slots = compressor(torch.stack(hidden, 2).float()).to(dtype)
        bos = embed(torch.zeros(args.batch, 1, dtype=torch.long))
        logits = model(inputs_embeds=torch.cat([bos, slots, embed(target)], 1)).logits
        first = slots.size(1)
        loss = F.cross_entropy(logits[:, first:first + args.generation].reshape(-1, args.vocab).float(), target.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(compressor.parameters(), 20.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= args.warmup:
            times.append(time.perf_counter() - start)
    times.sort()
    seconds = times[len(times) // 2]
    tokens = args.batch * (args.context + args.generation)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds_per_step": seconds, "tokens_per_second": tokens / seconds, "peak_rss_bytes": peak,
                      "loss": loss.item(), "trainable": sum(p.numel() for p in compressor.parameters())}))


if __name__ == "__main__":
    main()
