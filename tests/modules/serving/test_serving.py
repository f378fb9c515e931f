"""The server on a tiny model: OpenAI's forms, limits, batching that changes no token, swaps."""

import asyncio
import json
import random
import threading
import time

import httpx
import pytest
import torch
from starlette.testclient import TestClient

from modules import tokenizer as bpe
from modules.model import checkpoint
from modules.model.generate import GenerationConfig, generate
from modules.model.gpt import GPT, GPTConfig
from modules.model.lstm import LSTM, LSTMConfig
from modules.serving.app import build
from modules.serving.engine import Engine, Full, Job
from modules.serving.limits import Limits
from modules.serving.slots import Slot, load
from modules.serving.text import Text

SIZE = {"n_positions": 64, "n_embd": 64, "init_std": 0.3}  # kernels of one row take this width
LIMITS = Limits(rows=4, queue=8, body=20_000, tokens=40, texts=5, seconds=30)
PROMPTS = [[1, 2, 3], [9], [30, 31, 32, 33, 34, 35, 36, 37], [5, 4, 3, 2, 1], [8, 8], [7]]


def save(folder, seed: int):
    """Write a checkpoint of one block."""
    made = bpe.Tokenizer([("h", "e"), ("l", "l"), ("he", "ll")])
    (folder / "tokenizer").mkdir(parents=True)
    made.save(folder / "tokenizer")
    torch.manual_seed(seed)
    checkpoint.save(GPT(GPTConfig(vocab_size=made.n_vocab, n_layer=1, n_head=2, **SIZE)), folder)
    return folder


@pytest.fixture(scope="module")
def slot(tmp_path_factory) -> Slot:
    return Slot("m@champion", load(save(tmp_path_factory.mktemp("m"), 0), "f" * 64, LIMITS))


@pytest.fixture(scope="module")
def client(slot):
    with TestClient(build([slot], LIMITS), raise_server_exceptions=False) as made:
        yield made


def ask(client, **fields):
    return client.post("/v1/completions", json={"model": "m@champion", "prompt": "he", **fields})


def expected(slot, prompt: list[int], index: int = 0, **how) -> list[int]:
    """What `generate` gives for the prompt alone."""
    config = GenerationConfig(**how)
    keys, eot = [index], slot.current.tokenizer.eot
    return generate(slot.current.model, [prompt], config, eot=eot, keys=keys)[0]


@pytest.mark.parametrize(
    "how",
    [{"temperature": 0}, {"temperature": 0.9, "seed": 3}, {"top_k": 7, "top_p": 0.8, "seed": 1}],
)
def test_a_completion_is_what_generate_gives(client, slot, how):
    body = ask(client, prompt="hello", max_tokens=20, n=2, **how).json()
    tokens = slot.current.tokenizer.encode("hello")
    for index, choice in enumerate(body["choices"]):
        alone = expected(slot, tokens, index, max_new_tokens=20, **how)
        assert choice["text"] == slot.current.tokenizer.decode(alone)
        assert choice["finish_reason"] == ("length" if len(alone) == 20 else "stop")
    assert body["usage"]["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize("kind", ["gpt", "lstm"])
@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.9, "seed": 5}])
def test_rows_that_come_at_any_time_get_the_tokens_they_get_alone(kind, how):
    torch.manual_seed(0)
    gpt = GPTConfig(vocab_size=67, n_layer=2, n_head=2, **SIZE)
    lstm = LSTMConfig(vocab_size=67, n_positions=64, n_embd=24, n_units=30, init_std=0.5)
    model = (GPT(gpt) if kind == "gpt" else LSTM(lstm)).eval()
    engine, done = Engine(model, rows=4, queue=99), threading.Semaphore(0)
    jobs = []
    for i, prompt in enumerate(PROMPTS * 3):
        count = 5 + 7 * (i % 4)
        config = GenerationConfig(max_new_tokens=count, **how)
        numbers = random.Random(f"{config.seed}/{i}")

        job = Job(prompt, config, count, numbers, lambda token, logits: False)
        job.receive = lambda token, logits, job=job: (
            len(job.tokens) == job.count and (done.release() or True)
        )
        jobs.append((job, config, i))
    for job, _, _ in jobs:
        engine.submit([job])
        while random.Random(len(job.prompt)).random() < 0.3 and engine.waiting:
            pass
    for _ in jobs:
        assert done.acquire(timeout=30)
    for job, config, i in jobs:
        assert job.tokens == generate(model, [job.prompt], config, keys=[i])[0]
    engine.close()
    engine.join(10)


def test_a_stream_is_the_whole_in_pieces(client):
    how = {"max_tokens": 30, "temperature": 0.8, "seed": 2, "stop": ["e"], "logprobs": 2}
    whole = ask(client, **how).json()["choices"][0]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = [t[6:] for t in ask(client, **how, **options).text.split("\n\n") if t]
    assert lines.pop() == "[DONE]"
    *bodies, usage = map(json.loads, lines)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 0
    choices = [body["choices"][0] for body in bodies]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    tokens = [t for choice in choices for t in choice["logprobs"]["tokens"]]
    assert tokens == whole["logprobs"]["tokens"]


def test_echo_with_log_probabilities_scores_a_prompt_as_the_scorer_does(client):
    fields = {"echo": True, "max_tokens": 0, "logprobs": 1}
    text = "hello, hello"
    found = ask(client, prompt="<" + text, **fields).json()["choices"][0]
    assert found["text"] == "<" + text
    known = found["logprobs"]["token_logprobs"]
    assert known[0] is None and all(p < 0 for p in known[1:])
    reply = client.post("/v1/score", json={"model": "m@champion", "texts": [text, "he"]}).json()
    assert [row["tokens"] for row in reply["data"]] == [6, 1]
    eot = 256 + 3
    tokens = [eot, *bpe.Tokenizer([("h", "e"), ("l", "l"), ("he", "ll")]).encode(text)]
    again = ask(client, prompt=tokens, **fields).json()["choices"][0]["logprobs"]
    total = sum(again["token_logprobs"][1:])
    assert total == pytest.approx(reply["data"][0]["log_likelihood"], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "other"}, 404, "there is: m@champion"),
        ({"max_tokens": 41}, 400, "max_tokens: 41; at most 40"),
        ({"prompt": "x" * 60, "max_tokens": 20}, 400, "the model's 64 positions"),
        ({"prompt": ["a"] * 6}, 400, "6 prompts; at most 5"),
        ({"prompt": []}, 400, "at least one prompt"),
        ({"prompt": [300]}, 400, "token id 300"),
        ({"max_tokens": 0}, 400, "without echo"),
        ({"n": 9}, 400, "9 continuations in one request; at most 8"),
        ({"temperature": -1}, 400, "temperature: "),
        ({"logit_bias": {}}, 400, "logit_bias: "),
        ({"prompt": "x" * 20_000}, 413, "more than 20000 bytes"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused_says_why_in_openais_shape(client, fields, status, message, stream):
    reply = ask(client, stream=stream, **fields)
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]["message"]
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_full_queue_is_429_and_a_cancelled_row_gives_its_place_up(client, slot):
    hold, held = threading.Event(), threading.Event()
    engine = slot.current.engine
    engine.call(lambda: (held.set(), hold.wait(20)))
    assert held.wait(10)
    how, nothing = GenerationConfig(max_new_tokens=3), lambda token, logits: False
    jobs = [Job([1], how, 3, random.Random(0), nothing) for _ in range(8)]
    engine.submit(jobs)
    reply = ask(client)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    with pytest.raises(Full):
        engine.submit([Job([1], how, 3, random.Random(0), nothing)])
    for job in jobs:
        job.cancelled = True
    threading.Timer(0.3, hold.set).start()
    assert ask(client).status_code == 200
    assert not any(job.tokens for job in jobs)


def test_a_deadline_and_a_client_that_leaves_cancel_the_row(slot):
    """On a real event loop: the request task is cancelled as uvicorn's disconnect does."""
    from modules.serving.completions import Completion, CompletionRequest

    async def leave() -> list[Job]:
        request = CompletionRequest(model="m", prompt="he", max_tokens=40)
        completion = Completion(request, slot.current, LIMITS)
        pieces = completion.pieces()
        await anext(pieces)
        await pieces.aclose()
        return completion.jobs

    assert all(job.cancelled for job in asyncio.run(leave()))

    async def late() -> int:
        app = build([slot], LIMITS.but(seconds=0.05))
        hold = threading.Event()
        slot.current.engine.call(lambda: hold.wait(0.5))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            body = {"model": "m@champion", "prompt": "he"}
            return (await http.post("/v1/completions", json=body)).status_code

    assert asyncio.run(late()) == 504


def test_a_failing_model_is_500_and_the_next_request_is_answered(client, slot, monkeypatch):
    from modules.model.batch import Batch

    assert ask(client).status_code == 200
    until = time.monotonic() + 10  # the answer is sent before its row is let go
    while slot.current.engine.running and time.monotonic() < until:
        time.sleep(0.01)
    assert (slot.current.engine.running, slot.current.engine.waiting) == (0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "add", lambda self, rows: 1 / 0)
        reply = ask(client)
        assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert ask(client).status_code == 200


def test_a_swap_lets_the_running_request_finish_with_the_old_model(slot, tmp_path):
    other = Slot("x", load(save(tmp_path / "a", 1), "a", LIMITS))
    with other.use() as old:
        other.replace(load(save(tmp_path / "b", 2), "b", LIMITS))
        with other.use() as new:
            assert (old.fingerprint, new.fingerprint) == ("a", "b")
        assert old.engine.call(lambda: 7).result(5) == 7
    old.engine.join(5)
    assert not old.engine._thread.is_alive()
    assert other.current.engine._thread.is_alive()


def test_health_models_metrics_and_the_page(client):
    assert client.get("/health").json() == {"status": "up"}
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["error"]) == ("m@champion", "model", None)
    text = client.get("/metrics").text
    assert 'textmill_requests_total{path="/health",status="200"}' in text
    page = client.get("/").text
    assert "http" not in page.replace("https", "http").split("<body")[0] or "//" not in page


@pytest.mark.parametrize(
    ("tokens", "stops", "pieces"),
    [
        ("abc", [], ["a", "b", "c", ""]),
        ("abc", ["bd"], ["a", "", "bc", ""]),
        ("abdx", ["bd"], ["a", "", "", ""]),
        ("ab", ["bd"], ["a", "", "b"]),
    ],
)
def test_text_holds_back_what_may_become_a_stop(tokens, stops, pieces):
    tokenizer = bpe.Tokenizer([])
    text, got = Text(tokenizer, stops), []
    for token in tokenizer.encode(tokens):
        got.append(text.push(token))
        if text.ended:
            break
    assert [*got, text.close()] == pieces
