"""De-tokenizers are invertible: every line of real files comes back, and so does any other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation import styles as s
from modules.evaluation.detokenize import Detokenized, Style, detokenize, rates, restore
from modules.files import read_jsonl
from modules.rows import find_rows

COLUMNS = {
    "wikitext_style": s.WIKITEXT_STYLE,
    "wikitext_style_unk": s.WIKITEXT_STYLE,
    "treebank_style": s.TREEBANK,
    "ptb_style": s.PTB_STYLE,
}
STYLES = {name: style for name, style in vars(s).items() if isinstance(style, Style)}


def checked(lines: list[str], style: Style) -> dict[str, int]:
    """Restore every line, and count the ways they were read."""
    wrong = [line for line in lines if restore(detokenize(line, style).text, style) != line]
    assert not wrong, wrong[:3]
    return rates(lines, style)


@pytest.mark.parametrize("where", ["data", "shared_data"])
@pytest.mark.parametrize("column", COLUMNS)
def test_every_sample_line_comes_back(column, where, request):
    folder: Path = request.getfixturevalue(where)
    rows = list(read_jsonl(find_rows(folder / "zeroshot/lm_ppl/tokenized_styles")))
    counts = checked([row[column] for row in rows], COLUMNS[column])
    assert counts["raw"] <= 0.01 * len(rows) and counts["exact"] >= 0.98 * len(rows), counts
    if column in ("wikitext_style", "treebank_style"):
        plain = [row for row in rows if row["plain_detok_exact"]]
        same = [detokenize(r[column], COLUMNS[column]).text == r["original"] for r in plain]
        assert sum(same) >= 0.98 * len(plain)


def test_every_line_of_the_real_wikitext_comes_back(shared_data):
    path = shared_data / "zeroshot/lm_ppl/wikitext2.test.tokens"
    if not path.exists():
        pytest.skip("WikiText-2 is not in ../shared/data")
    lines = [line for line in path.read_text().split("\n") if line.strip(" ")]
    assert all(line == f" {line.strip(' ')} " for line in lines), "outer spaces are constant"
    counts = checked([line.strip(" ") for line in lines], s.WIKITEXT)
    assert counts["raw"] <= 0.001 * len(lines) and counts["exact"] >= 0.99 * len(lines), counts


TOKENS = (
    "the The don can not gon na i I N n't 't 's ' '' `` ` \" , . .. ... : ; ! ? ( ) [ ] -- - @-@ "
    "@,@ @.@ / $ c$ # % ° 1 1,000 2.5 Mr. Mr mr. U.S. u.s. p.m. inc. monday <unk> -LRB- -RRB- "
    "-LSB- cannot 'em 'an don't a.b.c. é\u0301 \xa0 \u2028 1990's _ & * = İ ß 日本"
)
LINES = st.lists(st.sampled_from(TOKENS.split(" ")) | st.text(max_size=4), max_size=12).map(
    " ".join
)


@pytest.mark.parametrize("name", STYLES)
@given(line=LINES)
def test_any_line_comes_back(name, line):
    result = detokenize(line, STYLES[name])
    assert restore(result.text, STYLES[name]) == line
    assert result.raw == result.text.startswith(" ")


@pytest.mark.parametrize(
    ("style", "line", "text"),
    [
        (s.WIKITEXT, "a guest @-@ starring role ( 1 @,@ 000 )", "a guest-starring role (1,000)"),
        (s.WIKITEXT, '" Craig " , Teddy \'s 2 @.@ 5 % .', '"Craig", Teddy\'s 2.5%.'),
        (s.WIKITEXT, "the boys ' room ; don 't", "the boys' room; don't"),
        (s.WIKITEXT, "a ' box ' in the ' 90s", "a 'box' in the '90s"),
        (s.WIKITEXT, "= = Early life = =", "= = Early life = ="),
        (s.WIKITEXT_STYLE, "they did n't say", "they didn't say"),
        (s.TREEBANK, "`` No , '' he said -LRB- twice -RRB- .", '"No," he said (twice).'),
        (s.PENN, "` I can not , ' said Mr. Fox ... then", "'I cannot,' said Mr. Fox... then"),
        (s.LAMBADA, "`` i do n't , '' i said . she left", '"I don\'t," I said. She left'),
        (
            s.ONE_BILLION_WORDS,
            'At 10 : 30 p.m. , he paid £ 5 ( 20 % ) , " the girls \' " debt , 1 / 2 of it .',
            'At 10:30 p.m., he paid £5 (20%), "the girls\'" debt, 1/2 of it.',
        ),
        (s.PTB, "mr. fox 's <unk> does n't pay c$ N", "Mr. fox's <unk> doesn't pay c$N."),
        (s.PTB, "i was in the u.s. monday", "I was in the U.S. Monday."),
    ],
)
def test_rules(style, line, text):
    assert detokenize(line, style) == Detokenized(text, kept=0, raw=False)


def test_a_join_that_would_not_come_back_stays_open():
    line = "named in 1 @-@ 2 , , and U.S . law"
    result = detokenize(line, s.WIKITEXT)
    assert result.kept > 0 and not result.raw
    assert restore(result.text, s.WIKITEXT) == line


@pytest.mark.parametrize("line", ["two  spaces", "the 1,000th time", "not(split)"])
def test_lines_that_cannot_come_back_are_raw(line):
    assert detokenize(line, s.WIKITEXT) == Detokenized(" " + line, kept=0, raw=True)
    assert rates([line], s.WIKITEXT)["raw"] == 1
