"""Runs the Python of every model card as it stands, and compares what it prints with the answer of ctxc-run ask.

The base is models/tiny-facts with two tokens more and so with a chat format, as a Hugging Face folder and as a GGUF file.
Cards of vllm-embeds and sglang-embeds talk to a server of this test that reads embeddings with transformers. load_cache.py is also asked
for a batch of two questions and for a memory behind other text.
"""
import base64
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from peft_prompt import ROOT, ctxc  # noqa: E402
from tiny_gguf import write_gguf  # noqa: E402

TEXT = ("Notes: Boris lives in Oslo. The market sells soup. Boris works as a pilot. Boris likes honey. Boris owns a boat. "
        "The road to Lima is long.")
QUESTION, PORT = "What does Boris like", {"vllm": 8000, "sglang": 30000}
PROMPTS = {"chat": ["prompt.head=chat", "prompt.cleanup=none", 'prompt.question_prefix="\\n\\n"', 'prompt.answer_prompt=""'],
           "plain": ["prompt.head=bos", "prompt.cleanup=mrqa_v1", "prompt.split_question=true"]}
LORA = ["compressor.ratio=2", "compressor.lora.rank=2", "compressor.recon.chunk=16"]
EXACT = ["compressor.optimise=truncate", "compressor.ratio=1"]  # the context's own keys and values


def make_base(folder):
    """tiny-facts with the tokens of ChatML in place of the last two of its vocabulary."""
    shutil.copytree(ROOT / "models/tiny-facts", folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    config = json.loads((folder / "config.json").read_text())
    known = len(tokenizer["model"]["vocab"])
    weights = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    for name in [name for name in weights if name.endswith(("embed_tokens.weight", "lm_head.weight"))]:
        rows = weights[name][:known]
        more = 0.5 * rows.float().std() * torch.randn(2, rows.shape[1], generator=random)
        weights[name] = torch.cat([rows, more.to(rows.dtype)])
    for offset, content in enumerate(("<|im_start|>", "<|im_end|>")):
        tokenizer["model"]["vocab"][content] = known + offset
        tokenizer["added_tokens"].append({"id": known + offset, "content": content, "single_word": False, "lstrip": False,
                                          "rstrip": False, "normalized": False, "special": True})
    config["vocab_size"] = known + 2
    path.write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def compile_text(base, work, name, keys):
    (work / "text.txt").write_text(TEXT)
    memory = work / f"{name}.safetensors"
    ctxc("ctxc-run", "compile", "--model", base, "--text", work / "text.txt", "--out", memory, "--preset", "small",
         "compressor.storage=float32", "queries.count=2", "queries.held_out=1", "queries.max_new=2", "train.steps=2",
         "train.valid_every=0", "--quiet", *keys)
    return memory


def embeds_memory(kv, base, path):
    """A memory of kind embeds with the record of `kv`: the embeddings of its header and of the text."""
    with safe_open(kv, "pt") as file:
        info = json.loads(file.metadata()["ctxc"])
    header = info["header_token_ids"]
    ids = header + AutoTokenizer.from_pretrained(base)(TEXT, add_special_tokens=False).input_ids
    table = load_file(base / "model.safetensors")["model.embed_tokens.weight"].float()
    info.update(kind="embeds", n_slots=len(ids) - len(header), positions={"first": 0, "count": len(ids), "rotated": True})
    save_file({"embeds": table[ids].contiguous()}, path, metadata={"ctxc": json.dumps(info), "format": "pt"})


def ask(memory):
    return ctxc("ctxc-run", "ask", "--memory", memory, "--json", QUESTION)["answer"]


def run_card(folder, replace=()):
    """What the script in folder/README.md prints, run in the folder."""
    scripts = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    if len(scripts) != 1:
        sys.exit(f"{folder}: {len(scripts)} scripts in the card")
    script = scripts[0]
    for old, new in (('question_ids("YOUR QUESTION")', f"question_ids({QUESTION!r})"), *replace):
        script = script.replace(old, new)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{folder.name}: the card's script fails\n{script}\n{done.stderr}")
    return done.stdout.strip()


def check(name, found, expected):
    print(f"{name}: {found!r}", flush=True)
    if found != expected or not expected:
        sys.exit(f"{name}: the card answers otherwise than ctxc-run ask ({expected!r})")


class Engine(http.server.BaseHTTPRequestHandler):
    """Reads embeddings as vLLM's completions and SGLang's generate take them, greedily."""
    model = tokenizer = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "prompt_embeds" in body:
            rows = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True)), weights_only=True)
        else:
            rows = torch.tensor(body["input_embeds"])
        ids = self.model.generate(inputs_embeds=rows[None].float(), attention_mask=torch.ones(1, len(rows), dtype=torch.long),
                                  max_new_tokens=32, do_sample=False)[0]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        answer = json.dumps({"choices": [{"text": text}], "text": text}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def check_servers(soft, base, work, expected):
    Engine.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    Engine.tokenizer = AutoTokenizer.from_pretrained(base)
    server = http.server.HTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, port in PORT.items():
        ctxc("ctxc-export", "--in", soft, "--to", f"{name}-embeds", "--out", work / name)
        check(name, run_card(work / name, [(f"localhost:{port}", f"127.0.0.1:{server.server_port}")]), expected)
    server.shutdown()


def check_loader(memory, base, work):
    """A batch of two questions padded on the left, and a memory that stands behind other text."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    sys.path.insert(0, str(work / "hf-cache"))
    import load_cache
    questions = [tokenizer(text, add_special_tokens=False).input_ids for text in ("Boris lives in", "What does Boris like?")]
    alone = [load_cache.generate(model, torch.tensor([ids]), **plain)[0].tolist() for ids in questions]
    width = max(map(len, questions))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in questions])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in questions])
    together = load_cache.generate(model, ids, attention_mask=mask, **plain).tolist()
    print(f"batch of two: {together}")
    if together != alone:
        sys.exit(f"hf-cache: a batch of two answers otherwise than each alone ({alone})")

    front = torch.tensor([tokenizer("Ada was born in Paris. ", add_special_tokens=False).input_ids])
    ctxc("ctxc-export", "--in", memory, "--to", "hf-cache", "--offset", str(front.shape[1]), "--out", work / "moved")
    with torch.no_grad():
        cache = load_cache.load_cache(model, work / "moved", front_ids=front)
        logits = model(input_ids=ids[1:], **{load_cache.argument(model): cache}).logits[0]
        still = model(input_ids=ids[1:], **{load_cache.argument(model): load_cache.load_cache(model)}).logits[0]
    first = load_cache.generate(model, ids[1:], work / "moved", front_ids=front, **plain)
    print(f"behind {front.shape[1]} other tokens: {first.tolist()}")
    if cache.get_seq_length() != front.shape[1] + load_cache.load_cache(model).get_seq_length() + width:
        sys.exit("hf-cache: the moved memory does not stand behind the text in front")
    if not (logits - still).abs().max() > 1e-3:
        sys.exit("hf-cache: the text in front changes nothing")
    try:
        load_cache.load_cache(model, work / "moved")
    except ValueError as error:
        print(error)
    else:
        sys.exit("hf-cache: a moved memory is read without the text in front")


def main(work):
    base = work / "base"
    make_base(base)
    gguf = work / "tiny.gguf"
    write_gguf(base, gguf)
    for name, prompt in PROMPTS.items():
        folder = work / name
        folder.mkdir()
        memory = compile_text(base, folder, name, EXACT + prompt)
        expected = ask(memory)
        for target in ("hf-cache", "peft-prefix", "raw"):
            ctxc("ctxc-export", "--in", memory, "--to", target, "--out", folder / target)
            check(f"{name}, {target}", run_card(folder / target), expected)
        soft = folder / "soft.safetensors"
        embeds_memory(memory, base, soft)
        expected = ask(soft)
        for target, out in (("peft-prompt", "prompt"), ("raw", "raw-embeds")):
            ctxc("ctxc-export", "--in", soft, "--to", target, "--out", folder / out)
            check(f"{name}, {target} of embeds", run_card(folder / out), expected)
        check_servers(soft, base, folder, expected)
    chat = work / "chat"
    check_loader(chat / "chat.safetensors", base, chat)
    compile_text(base, chat, "again", [*LORA, "--keep-lora", str(chat / "chat-lora.safetensors")])
    ctxc("ctxc-export", "--in", chat / "chat-lora.safetensors", "--to", "peft-lora", "--out", chat / "lora")
    print(run_card(chat / "lora", [("TEXT.txt", str(chat / "text.txt"))]))

    folder = work / "gguf"
    folder.mkdir()
    memory = compile_text(gguf, folder, "gguf", EXACT + PROMPTS["plain"])
    ctxc("ctxc-export", "--in", memory, "--to", "hf-cache", "--out", folder / "hf-cache")
    check("GGUF, hf-cache", run_card(folder / "hf-cache"), ask(memory))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        main(pathlib.Path(name))
