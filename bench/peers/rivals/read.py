"""Read every response of WARC files, HTTP header parsed, body read; bytes of bodies."""

from pathlib import Path

from common import Prepare, Work


def with_textmill(folder: Path, vocabulary: Path) -> Work:
    from modules.corpus.warc import read_body, read_captures

    def run() -> int:
        return sum(
            len(read_body(path, offset=c.offset, index=c.index, limit=2**30).data)
            for path in sorted(folder.glob("*.warc.gz"))
            for c in read_captures(path)
        )

    return run


def with_fastwarc(folder: Path, vocabulary: Path) -> Work:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def run() -> int:
        total = 0
        for path in sorted(folder.glob("*.warc.gz")):
            with path.open("rb") as file:
                for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                    total += len(record.reader.read())
        return total

    return run


def with_warcio(folder: Path, vocabulary: Path) -> Work:
    from warcio.archiveiterator import ArchiveIterator

    def run() -> int:
        total = 0
        for path in sorted(folder.glob("*.warc.gz")):
            with path.open("rb") as file:
                for record in ArchiveIterator(file):
                    total += len(record.raw_stream.read()) if record.rec_type == "response" else 0
        return total

    return run


LIBRARIES: dict[str, Prepare] = {
    "textmill": with_textmill,
    "fastwarc": with_fastwarc,
    "warcio": with_warcio,
}
