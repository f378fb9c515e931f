"""Read TensorFlow's V2 checkpoints without TensorFlow: an index and one file of tensors.

The index is a LevelDB table (sorted keys in checksummed blocks, a footer of 48 bytes) whose values
are protobuf messages that say where each tensor lies. Everything is checked: the checksum of each
block and tensor, bounds, types; a file that is not exactly what is expected gets a ValueError.
"""

import math
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = 0xDB4775248B80FB57  # of LevelDB tables
FOOTER, TRAILER = 48, 5  # bytes; a block is followed by its compression and checksum
MAX_INDEX = 2**26  # bytes of an index, and of a block when unpacked; GPT-2's have 20 KB
POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
LANES = 4096  # parts of a tensor that are checksummed side by side
VARINT, FIXED32, BYTES = 0, 5, 2  # protobuf wire types
FLOAT = 1  # TensorFlow's number for float32

Message = dict[int, list[int | bytes]]


class Entry(NamedTuple):
    """Where a float32 tensor lies in the data file."""

    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int


def read_index(path: Path) -> dict[str, Entry]:
    """Return the tensors that an index file (.index) lists.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, in several pieces, or lists anything but float32 tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: expected a TensorFlow checkpoint")
    if path.stat().st_size > MAX_INDEX:
        raise ValueError(f"{path} is too large for an index of GPT weights")
    try:
        rows = dict(_rows(path.read_bytes()))
        header = _message(rows.pop(b"", b""))
        _need(set(header) <= {1, 2, 3} and header.get(1) == [1], "not a bundle of one data file")
        _need(header.get(2, [0]) == [0], "not little-endian")
        return {key.decode(): _entry(value) for key, value in rows.items()}
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{path} is not a whole index of float32 tensors: {error}") from None


def read_tensor(path: Path, name: str, entry: Entry) -> np.ndarray:
    """Return one tensor of the data file (.data-00000-of-00001), checked."""
    with path.open("rb") as file:
        if entry.offset + entry.size > path.stat().st_size:
            raise ValueError(f"{path}: {name} reaches past the end: the file is cut off")
        file.seek(entry.offset)
        data = np.fromfile(file, np.uint8, entry.size)
    if _masked(crc32c(data)) != entry.checksum:
        raise ValueError(f"{path}: the checksum of {name} is wrong: the file is damaged")
    return data.view("<f4").reshape(entry.shape)


def crc32c(data: np.ndarray) -> int:
    """Return the CRC-32C of bytes (uint8).

    The register's state is linear in the bytes and blind to leading zeros: parts of equal length go
    side by side, then neighbours are joined, two by two.
    """
    lanes = LANES if len(data) > 16 * LANES else 1
    padded = np.concatenate([np.zeros(-len(data) % lanes, np.uint8), data])
    columns = np.ascontiguousarray(padded.reshape(lanes, -1).T)
    states, table = np.zeros(lanes, np.uint32), _table()
    for column in columns:
        states = table[(states ^ column) & 0xFF] ^ (states >> np.uint32(8))
    length = len(columns)
    while len(states) > 1:
        states, length = _advance(states[::2], length) ^ states[1::2], 2 * length
    start = _advance(np.array([0xFFFFFFFF], np.uint32), len(data))
    return int((start ^ states)[0]) ^ 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, POLYNOMIAL, 0).astype(np.uint32)
    return table


def _advance(states: np.ndarray, zeros: int) -> np.ndarray:
    """Return the states after so many zero bytes: a matrix power, by repeated squaring."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    matrix = _table()[bits & 0xFF] ^ (bits >> np.uint32(8))  # what a zero byte makes of each bit
    while zeros:
        if zeros & 1:
            states = _times(matrix, states)
        matrix, zeros = _times(matrix, matrix), zeros >> 1
    return states


def _times(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    out = np.zeros_like(states)
    for bit in range(32):
        out ^= matrix[bit] * (states >> np.uint32(bit) & np.uint32(1))
    return out


def _masked(crc: int) -> int:
    """Return a checksum as LevelDB stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _rows(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in order."""
    _need(len(data) >= FOOTER and struct.unpack("<Q", data[-8:])[0] == MAGIC, "no LevelDB table")
    footer = data[-FOOTER:-8]
    meta, at = _handle(footer, 0)
    index, at = _handle(footer, at)
    _need(not any(footer[at:]), "a damaged footer")
    _need(not list(_entries(_block(data, *meta))), "an unknown kind of table")
    last = None
    for _, value in _entries(_block(data, *index)):
        handle, end = _handle(value, 0)
        _need(end == len(value), "a damaged index block")
        for key, row in _entries(_block(data, *handle)):
            _need(last is None or key > last, "keys out of order")
            last = key
            yield key, row


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Return a block's content, its checksum checked."""
    end = offset + size
    _need(end + TRAILER <= len(data) - FOOTER, "a block reaches past the end")
    kind, checksum = struct.unpack("<BI", data[end : end + TRAILER])
    found = crc32c(np.frombuffer(data[offset : end + 1], np.uint8))
    _need(_masked(found) == checksum, "the checksum of a block is wrong")
    _need(kind in (0, 1), f"compression {kind} is unknown")
    return unsnap(data[offset:end]) if kind else data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; a key says how much it shares with the one before."""
    restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (restarts + 1)
    _need(end >= 0, "a damaged block")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        _need(shared <= len(key) and at + own + size <= end, "a damaged block")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size]
        at += own + size


def unsnap(data: bytes) -> bytes:
    """Return what a Snappy block (raw, without framing) holds."""
    size, at = _varint(data, 0)
    _need(size <= MAX_INDEX, "a block is too large")
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:  # bytes as they are
            if length > 60:
                more = length - 60
                length, at = int.from_bytes(data[at : at + more], "little") + 1, at + more
            _need(at + length <= len(data), "damaged Snappy data")
            out += data[at : at + length]
            at += length
        else:  # a copy of what came before
            width = (1, 2, 4)[kind - 1]
            distance = int.from_bytes(data[at : at + width], "little")
            if kind == 1:
                length, distance = (tag >> 2 & 7) + 4, distance | (tag >> 5) << 8
            _need(at + width <= len(data) and 0 < distance <= len(out), "damaged Snappy data")
            at += width
            piece = out[-distance:][:length]
            out += (piece * (length // len(piece) + 1))[:length]
        _need(len(out) <= size, "damaged Snappy data")
    _need(len(out) == size, "damaged Snappy data")
    return bytes(out)


def _entry(value: bytes) -> Entry:
    """Return a BundleEntryProto: type 1, shape 2, shard 3, offset 4, size 5, crc32c 6, slices 7."""
    fields = _message(value)
    _need(set(fields) <= {1, 2, 3, 4, 5, 6}, "a tensor in slices")
    dtype, shard, offset, size = (_number(fields, i) for i in (1, 3, 4, 5))
    _need(dtype == FLOAT, f"a tensor of type {dtype}, not float32")
    _need(shard == 0, "more than one data file")
    sizes = _message(_bytes(fields.get(2, [b""])))
    _need(set(sizes) <= {2}, "a tensor without shape")
    shape = tuple(_dimension(part) for part in sizes.get(2, []))
    _need(size == 4 * math.prod(shape), "size and shape of a tensor differ")
    return Entry(shape, offset, size, _number(fields, 6))


def _dimension(part: int | bytes) -> int:
    fields = _message(_bytes([part]))
    _need(set(fields) <= {1}, "a damaged message")
    return _number(fields, 1)


def _message(data: bytes) -> Message:
    """Return the fields of a protobuf message by number."""
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        if tag & 7 == VARINT:
            value, at = _varint(data, at)
        elif tag & 7 == FIXED32:
            value, at = struct.unpack("<I", data[at : at + 4])[0], at + 4
        else:
            _need(tag & 7 == BYTES, "a damaged message")
            size, at = _varint(data, at)
            _need(at + size <= len(data), "a damaged message")
            value, at = data[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _bytes(found: list[int | bytes]) -> bytes:
    if len(found) != 1 or not isinstance(found[0], bytes):
        raise ValueError("a damaged message")
    return found[0]


def _number(fields: Message, number: int) -> int:
    found = fields.get(number, [0])  # protobuf leaves zeros out
    if len(found) != 1 or not isinstance(found[0], int):
        raise ValueError("a damaged message")
    return found[0]


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Return offset and size of a block, and where the next field begins."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number stored seven bits a byte, and where the next field begins."""
    value = 0
    for i in range(10):
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a number that does not end")


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
