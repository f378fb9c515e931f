"""Serve completions beside a plain transformers + FastAPI loop, in turns, over HTTP.

    python -m bench.serve [--tokens 64] [--turns 3] [--threads 1] [--layers 12] [--clients 1 4 16]

GPT-2's shape with random weights, greedy, the same weights on both sides. The peer is what most
people write: FastAPI, one lock, `model.generate` per request, float32. In each turn both servers
(processes of their own, both up all the while) answer the same prompts from so many clients at
once; the texts are compared.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

from modules import tokenizer as bpe
from modules.model import checkpoint
from modules.model.gpt import GPT, GPTConfig
from modules.model.weights import export_hf

PER_CLIENT = 2  # requests of a client in a turn


def make(folder: Path, layers: int) -> None:
    """Write the same random weights for both sides."""
    torch.manual_seed(0)
    tokenizer = bpe.Tokenizer([])
    model = GPT(GPTConfig(vocab_size=tokenizer.n_vocab, n_layer=layers, init_std=0.05))
    (folder / "ours" / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "ours" / "tokenizer")
    checkpoint.save(model, folder / "ours")
    export_hf(folder / "ours", folder / "hf")


def serve_ours(folder: Path, port: int) -> None:
    """Run textmill's application on a checkpoint."""
    import uvicorn

    from modules.serving.app import build
    from modules.serving.limits import Limits
    from modules.serving.slots import Slot, load

    limits = Limits(seconds=600)
    app = build([Slot("m", load(folder / "ours", "f", limits))], limits)
    uvicorn.run(app, port=port, log_level="warning")


def serve_peer(folder: Path, port: int) -> None:
    """Run the plain loop: a lock around transformers' generate."""
    import threading

    import transformers
    import uvicorn
    from fastapi import FastAPI

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32
    ).eval()
    tokenizer, lock, app = bpe.load(folder / "ours" / "tokenizer"), threading.Lock(), FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {}

    @app.post("/v1/completions")
    def complete(body: dict) -> dict:  # type: ignore[type-arg]
        ids = torch.tensor([body["prompt"]])
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with lock, torch.no_grad():
            mask = torch.ones_like(ids)
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=body["max_tokens"], **options
            )
        return {"choices": [{"text": tokenizer.decode(out[0, ids.shape[1] :].tolist())}]}

    uvicorn.run(app, port=port, log_level="warning")


def start(side: str, folder: Path, threads: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start a side in a process of its own and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"import torch; torch.set_num_threads({threads}); from pathlib import Path; "
    code += f"from bench import serve; serve.serve_{side}(Path({str(folder)!r}), {port})"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return process, url
        except httpx.TransportError:
            if process.poll() is not None:
                raise RuntimeError(f"{side} ended while starting") from None
            time.sleep(0.3)


def load(
    url: str, prompts: list[list[int]], tokens: int, clients: int
) -> tuple[float, float, list[str]]:
    """Return tokens per second, the median latency, and the texts."""

    def one(prompt: list[int]) -> tuple[float, str]:
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        begun = time.perf_counter()
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600).raise_for_status()
        return time.perf_counter() - begun, reply.json()["choices"][0]["text"]

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, prompts))
    rate = len(prompts) * tokens / (time.perf_counter() - begun)
    return rate, statistics.median(seconds for seconds, _ in found), [text for _, text in found]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.layers)
        sides = {side: start(side, Path(name), options.threads) for side in ("ours", "peer")}
        try:
            compare({side: url for side, (_, url) in sides.items()}, options)
        finally:
            for process, _ in sides.values():
                process.terminate()
                process.wait()


def compare(urls: dict[str, str], options: argparse.Namespace) -> None:
    """Let both sides answer in turns."""
    for url in urls.values():
        load(url, [[1, 2, 3]], 4, 1)  # warm
    head = "| clients | textmill tok/s | peer tok/s | ratio | textmill s | peer s | equal texts |"
    print(head + "\n|---:|---:|---:|---:|---:|---:|---:|")
    for clients in options.clients:
        rates: dict[str, list[float]] = {side: [] for side in urls}
        waits: dict[str, list[float]] = {side: [] for side in urls}
        same = n = 0
        for _ in range(options.turns):
            lengths = torch.randint(8, 64, (clients * PER_CLIENT,)).tolist()
            prompts = [torch.randint(0, 256, (length,)).tolist() for length in lengths]
            texts = {}
            for side, url in urls.items():
                rate, wait, texts[side] = load(url, prompts, options.tokens, clients)
                rates[side].append(rate)
                waits[side].append(wait)
            same += sum(a == b for a, b in zip(texts["ours"], texts["peer"], strict=True))
            n += len(prompts)
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
        cells = [statistics.median(x) for x in (rates["ours"], rates["peer"])]
        times = [statistics.median(x) for x in (waits["ours"], waits["peer"])]
        print(
            f"| {clients} | {cells[0]:.1f} | {cells[1]:.1f} | {ratio:.2f} x "
            f"| {times[0]:.2f} | {times[1]:.2f} | {same} of {n} |"
        )


if __name__ == "__main__":
    main()
