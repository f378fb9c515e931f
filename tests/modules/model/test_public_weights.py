"""The real public weights give the answers that are known of them.

Runs where TEXTMILL_WEIGHTS names a folder with the hub's folders in it, as they are there: `gpt2`
and `openai-gpt`, each with config.json and safetensors (gpt2 with vocab.json and merges.txt too).
The numbers are those of gpt2.md sections 3 and 8 and of gpt1.md section 10.
"""

import math
import os
from pathlib import Path

import pytest

from modules import tasks
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.zero_shot import evaluate
from modules.model.checkpoint import load
from modules.model.generate import GenerationConfig, generate
from modules.model.weights import import_hf
from modules.task import find_split
from modules.tokenizer import load as load_tokenizer

ROOT = Path(__file__).parents[3]
HOW = "set TEXTMILL_WEIGHTS to a folder with the hub's {} in it (config.json, safetensors)"
PARAMETERS = {"gpt2": 124_439_808, "openai-gpt": 116_534_784}
GREEDY = {
    "gpt2": (  # The dog was found in a field near the intersection of West and West Streets.
        [464, 3290],
        [
            *(373, 1043, 287, 257, 2214, 1474, 262, 16246, 286),
            *(2688, 290, 2688, 27262, 13, 198, 198, 464, 3290),
        ],
    ),
    "openai-gpt": (  # the president is a very good man.
        [481, 4735, 544],
        [246, 963, 870, 762, 239, 244, 40477, 244, 249, 719, 881, 487, 544, 240, 244, 603, 481],
    ),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return a function that imports a public folder once, or skips with the reason."""
    found: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        folder = Path(os.environ.get("TEXTMILL_WEIGHTS") or "/nowhere") / name
        if not (folder / "config.json").is_file():
            pytest.skip(HOW.format(name))
        if name not in found:
            found[name] = tmp_path_factory.mktemp(name)
            import_hf(folder, found[name])
        return found[name]

    return checkpoint


@pytest.mark.parametrize("name", GREEDY)
def test_size_and_greedy_continuation(name, imported):
    model = load(imported(name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    prompt, expected = GREEDY[name]
    config = GenerationConfig(max_new_tokens=len(expected), temperature=0.0)
    assert generate(model, [prompt], config, None, None, [0])[0] == expected


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("I'm can't they'LL don't", [40, 1101, 460, 470, 484, 6, 3069, 836, 470]),
        ("日本語", [33768, 98, 17312, 105, 45739, 252]),
        ("\nA:", [198, 32, 25]),
    ],
)
def test_tokens_of_gpt2(text, ids, imported):
    assert load_tokenizer(imported("gpt2") / "tokenizer").encode(text) == ids


@pytest.mark.parametrize("prompt", ["Hello, my dog is a little", "Today, I"])
def test_sentences_of_gpt2(prompt, imported):
    """transformers' own integration test; where prompt and continuation part is from memory."""
    whole = (
        "Hello, my dog is a little bit of a mess. I'm not sure if he's going",
        "Today, I'm going to be doing a lot of research on this. I",
    )
    tokenizer = load_tokenizer(imported("gpt2") / "tokenizer")
    [expected] = [text for text in whole if text.startswith(prompt)]
    ids = tokenizer.encode(prompt)
    count = len(tokenizer.encode(expected)) - len(ids)
    config = GenerationConfig(max_new_tokens=count, temperature=0.0)
    new = generate(load(imported("gpt2")), [ids], config, None, None, [0])[0]
    assert tokenizer.decode(ids + new) == expected


def scores_of(name: str, imported, out: Path) -> dict[str, float]:
    """Return a benchmark's scores by 124M the harness's way, or skip where its rows are not."""
    task, data = tasks.get(name), ROOT / "data"
    try:
        find_split(task, data, task.scored[0])
    except FileNotFoundError as error:
        pytest.skip(str(error))
    config = ZeroShotConfig(convention="harness", bootstrap_samples=100)
    scores = evaluate(imported("gpt2"), task, data, out, config)
    return {s.metric: s.value for s in scores if s.protocol["variant"] == task.variant}


@pytest.mark.slow  # 5,153 passages by 124M: about 20 minutes on 2 cores
@pytest.mark.timeout(7200)
def test_lambada_of_gpt2(imported, tmp_path):
    scores = scores_of("lambada", imported, tmp_path)
    assert scores["accuracy"] == pytest.approx(0.3256, abs=0.002)  # gpt2.md 8.1
    assert scores["perplexity"] == pytest.approx(40.06, rel=0.005)
    assert scores["accuracy_last_token"] == pytest.approx(0.4668, abs=0.01)  # 46.67 to 46.89


@pytest.mark.slow  # 290,000 tokens by 124M: about 10 minutes on 2 cores
@pytest.mark.timeout(7200)
def test_wikitext103_of_gpt2(imported, tmp_path):
    """The paper has 37.50 on the files with <unk>, windows unknown; 37.37 is of the raw files."""
    scores = scores_of("wikitext103", imported, tmp_path)
    assert math.log(scores["word_perplexity"]) == pytest.approx(math.log(37.5), abs=0.1)
