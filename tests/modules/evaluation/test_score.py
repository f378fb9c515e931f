"""Scores against a straightforward computation with transformers' GPT-2 on the same weights."""

import pytest
import torch

from modules import tokenizer as bpe
from modules.evaluation import cloze, reading, score, spans
from modules.model.checkpoint import load
from modules.model.generate import GenerationConfig
from modules.model.weights import export_hf
from modules.task import Cloze

TEXT = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and "
    "void; and darkness was upon the face of the deep. And the Spirit of God moved upon the waters."
)
PAIRS = [
    (TEXT, " And God said"),
    ("And the evening and the morning ", "were the first day."),
    ("", "Let there be light"),
    ("A question?\n", "An answer with\nseveral lines"),
]
GROUPS = [
    [(TEXT * 2 + " The", f" {word} was upon the waters.") for word in ("Spirit", "dove", "ship")],
    [("the garage", " looks old"), ("the old house", " looks old")],
    [(TEXT * 2, f" {word}") for word in ("He was", "It", "Therefore they went out")],
    *[[pair] for pair in PAIRS],
]


@pytest.fixture(scope="module")
def model(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return bpe.load(checkpoint / "tokenizer")


@pytest.fixture(scope="module")
def theirs(checkpoint, tmp_path_factory):
    from transformers import GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("hf")
    export_hf(checkpoint, folder)
    return GPT2LMHeadModel.from_pretrained(folder).eval()


@torch.no_grad()
def by_hand(theirs, context: list[int], continuation: list[int]) -> tuple[float, list[bool]]:
    """log P(continuation | context) and which tokens are the argmax, from all logits."""
    ids = torch.tensor([context + continuation])
    logs = theirs(ids).logits[0].double().log_softmax(-1)
    at = range(len(context) - 1, len(context) + len(continuation) - 1)
    total = sum(float(logs[i, ids[0, i + 1]]) for i in at)
    return total, [bool(logs[i].argmax() == ids[0, i + 1]) for i in at]


def test_choices_equal_full_logits_of_transformers(model, tokenizer, theirs):
    found = score.choice_logprobs(model, tokenizer, GROUPS)
    groups = [[spans.encode_pair(tokenizer, *pair) for pair in group] for group in GROUPS]
    for group, scores in zip(groups, found, strict=True):
        for (context, continuation), one in zip(group, scores, strict=True):
            expected, greedy = by_hand(theirs, context, continuation)
            assert one.logprob == pytest.approx(expected, abs=2e-4)
            assert list(one.greedy) == greedy
            assert one.dropped == 0


def test_groups_read_what_they_share_once(model, tokenizer, monkeypatch):
    groups = [
        spans.pair_spans([spans.encode_pair(tokenizer, *pair) for pair in group], 256)
        for group in GROUPS
    ]
    rows = [row for batch in reading.plan(groups, model, 8192) for row in batch]
    assert sorted(number for row in rows for number in row.numbers) == list(
        range(sum(map(len, groups)))
    )
    widest = {row.numbers: row for row in rows}
    one, last = widest[(0, 1, 2)], widest[(5, 6, 7)]
    assert one.shared == len(tokenizer.encode(TEXT * 2 + " The"))
    assert last.shared == len(tokenizer.encode(TEXT * 2)), "up to the first scored token"
    assert one.width < sum(span.read for span in groups[0]) / 2
    shared = score.choice_logprobs(model, tokenizer, GROUPS)
    monkeypatch.setattr(reading, "cheaper", lambda row, features: False)
    alone = score.choice_logprobs(model, tokenizer, GROUPS)
    for a, b in zip(shared, alone, strict=True):
        assert [x.logprob for x in a] == pytest.approx([x.logprob for x in b], abs=1e-4)
        assert [x.greedy for x in a] == [x.greedy for x in b]


def test_a_branching_row_may_be_wider_than_the_context(model, tokenizer):
    """Ten candidates after 250 tokens: 250 positions at most, but 340 columns."""
    context = tokenizer.decode(tokenizer.encode(TEXT * 8)[:240])
    group = [(context, f" {word} was upon the face") for word in ("I", "He", "It", "We", "They")]
    (found,) = score.choice_logprobs(model, tokenizer, [group * 3])
    alone = [score.choice_logprobs(model, tokenizer, [[pair]])[0][0] for pair in group]
    for one, expected in zip(found, alone * 3, strict=True):
        assert one.logprob == pytest.approx(expected.logprob, abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 300, 10**6])
def test_batches_change_nothing(model, tokenizer, batch_tokens):
    expected = score.choice_logprobs(model, tokenizer, GROUPS)
    found = score.choice_logprobs(model, tokenizer, GROUPS[::-1], batch_tokens=batch_tokens)
    for a, b in zip(expected, found[::-1], strict=True):
        assert [x.logprob for x in a] == pytest.approx([x.logprob for x in b], rel=1e-5)


def test_the_lstm_is_scored_the_same_way(lstm_checkpoint, tokenizer, monkeypatch):
    lstm = load(lstm_checkpoint)
    shared = score.choice_logprobs(lstm, tokenizer, GROUPS)
    for group, scores in zip(GROUPS, shared, strict=True):
        for pair, one in zip(group, scores, strict=True):
            context, continuation = spans.encode_pair(tokenizer, *pair)
            ids = torch.tensor([context + continuation])
            with torch.no_grad():
                logs = lstm.logits(lstm(ids[:, :-1])).log_softmax(-1)[0]
            logs = logs[len(context) - 1 :].gather(1, ids[0, len(context) :, None])
            assert one.logprob == pytest.approx(float(logs.sum()), abs=1e-4)


def test_pairs_are_split_as_the_harness_does(tokenizer):
    context, continuation = spans.encode_pair(tokenizer, "the first ", "day")
    assert context == tokenizer.encode("the first")
    assert tokenizer.decode(continuation) == " day"
    assert context + continuation == tokenizer.encode("the first day")
    assert spans.encode_pair(tokenizer, "", "day")[0] == [tokenizer.eot]
    assert spans.encode_pair(tokenizer, " ", "day")[1] == tokenizer.encode(" day")
    with pytest.raises(ValueError, match="nothing to score"):
        spans.encode_pair(tokenizer, "a", "")


def test_long_contexts_lose_their_beginning_alike(model, tokenizer, theirs):
    group = [(TEXT * 8, " It was."), (TEXT * 8, " And the evening and the morning were")]
    found = score.choice_logprobs(model, tokenizer, [group])[0]
    pairs = [spans.encode_pair(tokenizer, *pair) for pair in group]
    drop = max(len(a) + len(b) for a, b in pairs) - 257
    for one, (context, continuation) in zip(found, pairs, strict=True):
        assert one.dropped == drop > 0
        ids = torch.tensor([(context[drop:] + continuation)[:-1]])
        with torch.no_grad():
            logs = theirs(ids).logits[0].double().log_softmax(-1)[-len(continuation) :]
        expected = sum(float(row[i]) for row, i in zip(logs, continuation, strict=True))
        assert one.logprob == pytest.approx(expected, abs=2e-4)
    with pytest.raises(ValueError, match=r"does not fit the model's 256 positions"):
        score.choice_logprobs(model, tokenizer, [[("short", " " + TEXT * 8)]])


@pytest.mark.parametrize("stride", [1, 7, 128, 256])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 300, 512, 513])
def test_every_token_is_scored_once(stride, length):
    tokens = list(range(1, length + 1))
    windows = spans.rolling_spans(tokens, 0, 256, stride)
    scored = [token for span in windows for token in span.tokens[-span.scored :]]
    assert scored == tokens
    assert all(1 <= span.scored <= span.read <= 256 for span in windows)
    assert all(span.tokens[0] == 0 for span in windows[:1])
    assert all(span.read == 256 for span in windows[1:]), "later windows have a full context"


@pytest.mark.parametrize("stride", [64, 256])
def test_rolling_equals_full_logits_of_transformers(model, tokenizer, theirs, stride):
    texts = [TEXT, TEXT * 7, "Short.", ""]
    found = score.rolling_logprobs(model, tokenizer, texts, stride=stride)
    for text, (logprob, n) in zip(texts, found, strict=True):
        ids = [tokenizer.eot, *tokenizer.encode(text)]
        assert n == len(ids) - 1
        expected, done = 0.0, 0
        while done < n:  # each target once, after at most 256 tokens
            end = min(n, done + (stride if done else 256))
            context = ids[max(0, end - 256) : done + 1]
            expected += by_hand_short(theirs, context, ids[done + 1 : end + 1])
            done = end
        assert logprob == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def by_hand_short(theirs, context: list[int], targets: list[int]) -> float:
    logs = theirs(torch.tensor([context + targets[:-1]])).logits[0].double().log_softmax(-1)
    return sum(float(row[i]) for row, i in zip(logs[-len(targets) :], targets, strict=True))


def test_a_text_within_the_context_needs_no_stride(model, tokenizer):
    a = score.rolling_logprobs(model, tokenizer, [TEXT], stride=1)
    assert a == score.rolling_logprobs(model, tokenizer, [TEXT], stride=256)


def test_bfloat16_is_close(model, tokenizer):
    exact = score.rolling_logprobs(model, tokenizer, [TEXT * 3], stride=128)[0]
    close = score.rolling_logprobs(model, tokenizer, [TEXT * 3], stride=128, precision="bfloat16")[
        0
    ]
    assert close[0] != exact[0]
    assert close[0] == pytest.approx(exact[0], rel=0.01)


def test_generation_stops_at_a_line_end(model, tokenizer):
    ends = score.line_end_tokens(tokenizer)
    assert [tokenizer.encode("\n")[0]] in ends and [tokenizer.eot] not in ends
    prompts = [tokenizer.encode(TEXT), tokenizer.encode("Q: who?\nA:")]
    config = GenerationConfig(max_new_tokens=20, temperature=0.0)
    for ids in score.generate_texts(model, tokenizer, prompts, config, stop_at_line_end=True):
        assert "\n" not in tokenizer.decode(ids)


CLOZES = [
    Cloze("a", TEXT[:-8], " waters"),
    Cloze("b", "Now the serpent was more subtil than any", " beast"),
    Cloze("c", TEXT * 9, " unprecedentedly"),
]


@pytest.mark.parametrize("batch_tokens", [1, 100000])
def test_cloze_rows_equal_full_logits_of_transformers(model, tokenizer, theirs, batch_tokens):
    rows = cloze.cloze_rows(
        model, tokenizer, CLOZES[:2], batch_tokens=batch_tokens, precision="float32"
    )
    for item, row in zip(CLOZES, rows, strict=False):
        expected, greedy = by_hand(theirs, *spans.encode_pair(tokenizer, item.context, item.target))
        assert row["nll"] == pytest.approx(-expected, abs=2e-4)
        assert row["accuracy"] == all(greedy) and row["accuracy_last_token"] == greedy[-1]


def test_long_passages_lose_their_beginning_and_are_counted(model, tokenizer):
    row = cloze.cloze_rows(model, tokenizer, CLOZES, batch_tokens=8192, precision="float32")[2]
    context, target = spans.encode_pair(tokenizer, CLOZES[2].context, CLOZES[2].target)
    assert row["dropped"] == len(context) - (256 - max(cloze.PIECES, len(target)))


class Scripted:
    """A model whose most probable words are written down: context -> tokens, best first."""

    def __init__(self, script, vocab_size):
        self.script, self.config = script, type("C", (), {"vocab_size": vocab_size})
        self.device = torch.device("cpu")

    def logits(self, hidden):
        out = torch.zeros(len(hidden), self.config.vocab_size)
        for row, h in zip(out, hidden.long().tolist(), strict=True):
            for rank, token in enumerate(self.script.get(tuple(x for x in h if x >= 0), ())):
                row[token] = 100 - rank
        return out

    def __call__(self, tokens, cache, lengths):
        width = 8  # features: all pieces read so far, -1 where there is none
        hidden = torch.full((*tokens.shape, width), -1.0)
        for b, row in enumerate(tokens.tolist()):
            for t in range(len(row)):
                hidden[b, t, : t + 1] = torch.tensor(row[: t + 1], dtype=torch.float)
        return hidden


class NoMemory:
    def take(self, rows):
        return self

    def peek(self):
        return self


def test_the_filter_refuses_stop_words_but_not_their_beginning(tokenizer):
    """Trap: " of" is refused as a word; " the" may go on, to " then" (refused) or " therapy"."""

    def one(text):
        (token,) = tokenizer.encode(text)
        return token

    of, the, n, dot = one(" of"), one(" the"), one("n"), one(".")
    script = {
        (): [of, the, dot],  # most probable first pieces
        (of,): [dot],  # complete: a stop word
        (the,): [n],  # goes on ...
        (the, n): [dot],  # ... to "then", a stop word too: the next first piece
        (dot,): [of],
    }
    assert first_word(tokenizer, script) == "."
    script[(the, n)] = [one("y")]  # now it is "theny", which is none
    script[(the, n, one("y"))] = [dot]
    assert first_word(tokenizer, script) == "theny"


def first_word(tokenizer, script) -> str:
    model = Scripted(script, tokenizer.n_vocab)
    last = torch.full((1, 8), -1.0)
    return cloze.filtered_words(model, tokenizer, NoMemory(), last)[0]


def test_the_stop_words_leave_nouns_alone():
    assert {"the", "of", "him", "therefore"} <= cloze.stop_words()
    assert not {"fire", "system", "name", "side"} & cloze.stop_words()
