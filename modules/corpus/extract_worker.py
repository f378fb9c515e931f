"""The process that touches hostile pages: one request a line in, one answer a line out.

Runs as `python -m modules.corpus.extract_worker`, started by extract.py with limits it sets on
itself. A page that hangs or bursts it ends this process by signal, and costs that page only.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from modules.corpus.decode import DecodeError, clean_text, decode_body, decode_text, is_binary
from modules.corpus.main_text import MainText, main_text
from modules.corpus.warc import BodyReader

Request = dict[str, Any]  # path, offset, index
Settings = dict[str, Any]  # of ExtractConfig.settings

OUT_OF_MEMORY = 77  # exit status that extract.py understands


def set_limits(memory_bytes: int) -> None:
    """Bound this process's memory; write no core files."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def set_timers(cpu_seconds: float, wall_seconds: float) -> None:
    """Let the kernel end this process when time is up, even inside native code; 0 stops both."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


def extract_page(request: Request, reader: BodyReader, settings: Settings) -> dict[str, Any]:
    """Return {text, title, date, charset, n_replaced} of a stored page, or {reason, detail}."""
    limit = settings["max_decoded_bytes"]
    try:
        body = reader.read(
            Path(request["path"]),
            offset=request["offset"],
            index=request["index"],
            limit=limit + 2**20,  # chunk sizes and poor compression take some room
        )
    except (OSError, ValueError) as error:
        return {"fatal": str(error)}  # the WARC is not the one the pages were selected from
    try:
        data = decode_body(body, limit)
    except DecodeError as error:
        return {"reason": str(error), "detail": body.content_encoding}
    if len(data) > limit:
        return {"reason": "too_large_decoded", "detail": f"over {limit} bytes"}
    if is_binary(data):
        return {"reason": "not-html", "detail": "binary data served as a page"}
    decoded = decode_text(data, body.content_type)
    answer = read_page(decoded.text, settings)
    if "text" in answer:
        answer |= {"charset": decoded.charset, "n_replaced": decoded.n_replaced}
    return answer


def read_page(html: str, settings: Settings) -> dict[str, Any]:
    """Return {text, title, date} of a page, or {reason, detail}."""
    found = extractor(settings["extractor"])(html)
    text = clean_text(found.text)
    if not text:
        return {"reason": "empty", "detail": ""}
    if found.only_links:
        return {"reason": "only-links", "detail": text[:80]}
    if len(text.split(None, settings["min_words"])) < settings["min_words"]:  # stops counting there
        return {"reason": "too-short", "detail": text[:80]}
    return {"text": text, "title": clean_text(found.title), "date": found.date}


def extractor(name: str) -> Callable[[str], MainText]:
    """Return the function of an extractor; the one that takes long to import only if wanted."""
    if name == "fast":
        return main_text
    from modules.corpus.quality import quality_text

    return quality_text


def answer_line(request: Request, reader: BodyReader, settings: Settings) -> bytes:
    """Return the answer to a request as a line; a library that raises costs the page only."""
    try:
        answer = extract_page(request, reader, settings)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # whatever a parser of a stranger's page may raise
        answer = {"reason": "extract-crash", "detail": repr(error)[:200]}
    try:
        return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half of a surrogate, in what a page says of itself
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def serve(settings: Settings) -> None:
    """Answer requests from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not look like an answer
    extractor(settings["extractor"])
    reader = BodyReader()
    set_limits(settings["memory_bytes"])
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        set_timers(settings["cpu_seconds"], settings["wall_seconds"])
        answer = answer_line(json.loads(line), reader, settings)
        set_timers(0, 0)
        sent = 0
        while sent < len(answer):
            sent += answers.write(answer[sent:]) or 0


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
