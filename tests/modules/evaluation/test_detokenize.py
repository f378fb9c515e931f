"""De-tokenizers are invertible: on real files every line comes back or is counted."""

import pytest

from modules.evaluation import detokenize as d
from modules.files import find_jsonl, read_jsonl

STYLES = {
    "wikitext_style": d.WIKITEXT_STYLE,
    "wikitext_style_unk": d.WIKITEXT_STYLE,
    "treebank_style": d.TREEBANK,
    "ptb_style": d.PTB,
}


def check_lines(lines, style) -> dict[str, int]:
    counts = {"lines": len(lines), "exact": 0, "raw": 0}
    for line in lines:
        result = d.detokenize(line, style)
        if result.raw:
            assert result.text == line
        else:
            assert d.retokenize(result.text, style) == line
        counts["raw"] += result.raw
        counts["exact"] += not result.kept and not result.raw
    return counts


@pytest.mark.parametrize("column", STYLES)
def test_the_sample_lines_come_back(column, data):
    rows = list(read_jsonl(find_jsonl(data / "zeroshot/lm_ppl/tokenized_styles")))
    rates = check_lines([row[column] for row in rows], STYLES[column])
    assert rates["raw"] == 0 and rates["exact"] >= 0.98 * rates["lines"], rates
    if column in ("wikitext_style", "treebank_style"):
        plain = [row for row in rows if row["plain_detok_exact"]]
        same = [d.detokenize(row[column], STYLES[column]).text == row["original"] for row in plain]
        assert sum(same) >= 0.98 * len(plain)


def test_the_real_wikitext_comes_back(shared_data):
    path = shared_data / "zeroshot/lm_ppl/wikitext2.test.tokens"
    if not path.exists():
        pytest.skip("WikiText-2 is not in ../shared/data")
    text = path.read_text()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert all(line == " " + line.strip() + " " for line in text.split("\n") if line.strip()), (
        "outer spaces are the file's constant"
    )
    rates = check_lines(lines, d.WIKITEXT)
    assert rates["raw"] <= 0.001 * rates["lines"], rates
    assert rates["exact"] >= 0.96 * rates["lines"], rates


@pytest.mark.parametrize(
    ("style", "line", "text"),
    [
        (d.WIKITEXT, "a guest @-@ starring role ( 1 @,@ 000 )", "a guest-starring role (1,000)"),
        (d.WIKITEXT, '" Craig " , Teddy \'s 2 @.@ 5 % .', '"Craig", Teddy\'s 2.5%.'),
        (d.WIKITEXT, "the boys ' room ; don 't", "the boys' room; don't"),
        (d.WIKITEXT, "= = Early life = =", "= = Early life = ="),
        (d.WIKITEXT_STYLE, "they did n't say", "they didn't say"),
        (d.TREEBANK, "`` No , '' he said -LRB- twice -RRB- .", '"No," he said (twice).'),
        (d.PTB, "the company 's <unk> does n't N", "the company's <unk> doesn't N"),
    ],
)
def test_rules(style, line, text):
    assert d.detokenize(line, style) == d.Detokenized(text, kept=0, raw=False)


def test_a_join_that_would_not_come_back_stays_open():
    line = "named in 1 @-@ 2 , , and U.S . law"
    result = d.detokenize(line, d.WIKITEXT)
    assert result.kept > 0 and not result.raw
    assert d.retokenize(result.text, d.WIKITEXT) == line


@pytest.mark.parametrize("line", ["two  spaces", "the 1,000th time", "not(split)"])
def test_lines_that_cannot_come_back_are_raw(line):
    assert d.detokenize(line, d.WIKITEXT) == d.Detokenized(line, kept=0, raw=True)
    assert d.rates([line], d.WIKITEXT)["raw"] == 1
