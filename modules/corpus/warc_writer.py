"""Write what was fetched as standard WARC 1.1: warcinfo, and response and request of every hop."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from modules.corpus.client import Answer
from modules.files import atomic_write


class Head(StatusAndHeaders):
    """An HTTP header kept byte for byte (warcio would escape what is not ASCII)."""

    def __init__(self, head: bytes) -> None:
        super().__init__(head.partition(b"\r\n")[0].decode("latin-1"), [])
        self._head = head

    def compute_headers_buffer(self, header_filter: object = None) -> None:
        """Take the bytes as they are."""
        self.headers_buff = self._head


class WarcFile:
    """A WARC file being written, one gzip member a record."""

    def __init__(self, file: IO[bytes], name: str, software: str) -> None:
        self._file = file
        self._writer = WARCWriter(file, gzip=True, warc_version="1.1")
        info = {"software": software, "format": "WARC File Format 1.1", "robots": "classic"}
        self._writer.write_record(self._writer.create_warcinfo_record(name, info))

    def write(self, answer: Answer) -> int:
        """Write an answer and its request; return the offset of the answer's record."""
        offset = self._file.tell()
        fields = {"WARC-Date": answer.date}
        if answer.peer:
            fields["WARC-IP-Address"] = answer.peer
        if answer.truncated:
            fields["WARC-Truncated"] = answer.truncated
        length = answer.body.seek(0, 2)
        answer.body.seek(0)
        make = self._writer.create_warc_record
        response = make(
            answer.url,
            "response",
            payload=answer.body,
            length=length,
            http_headers=Head(answer.head),
            warc_headers_dict=fields,
        )
        request = make(
            answer.url,
            "request",
            payload=BytesIO(),
            length=0,
            http_headers=Head(answer.request),
            warc_headers_dict={"WARC-Date": answer.date},
        )
        self._writer.write_request_response_pair(request, response)
        return offset


@contextmanager
def warc_file(path: Path, software: str) -> Iterator[WarcFile]:
    """Open a WARC file that appears under its name when the block ends well."""
    with atomic_write(path) as file:
        yield WarcFile(file, path.name, software)
