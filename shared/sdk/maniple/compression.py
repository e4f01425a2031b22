"""Bundles between processes of ours, compressed (gzip): their members repeat each other.

A reader knows one by how it begins, which no JSON does; the AMQP property `content_encoding` tells
people. Whoever sends it knows that its readers read it, as those of an earlier release do not.
Records and what outsiders read are never compressed. See docs/decisions/0025.
"""

import zlib
from typing import Final

from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_BODY

GZIP: Final = "gzip"
"""The AMQP property `content_encoding` of what is compressed."""
MAGIC: Final = b"\x1f\x8b\x08"
LEAST: Final = 4096  # bytes; below, it costs more than the broker saves
MOST_A_MEMBER: Final = 640  # bytes, on average: what is in larger ones repeats nothing
MOST: Final = MAX_BODY  # bytes as they were
_LEVEL = 1
_WINDOW = 31  # the largest, of the format of gzip
_SIZE = 4  # bytes at the end, which tell how many there were


def compressed(body: bytes) -> bytes:
    """Return a bundle of at most `MOST` bytes, compressed."""
    return zlib.compress(body, _LEVEL, _WINDOW)


def size_told(body: bytes) -> int:
    """Return how many bytes something compressed says that it had; no more than it may have."""
    return min(_size(body), MOST)


def decompressed(body: bytes) -> bytes:
    """Return what was compressed.

    Raises `InvalidMessage` (`undecodable`) for what is damaged, and before it takes any memory for
    what is, or turns out to be, over `MOST`.
    """
    size = _size(body)
    if size > MOST:
        raise InvalidMessage(
            ErrorCode.UNDECODABLE, f"decompressed it has {size:,} bytes, and may have {MOST:,}"
        )
    stream = zlib.decompressobj(_WINDOW)
    try:
        plain = stream.decompress(body, size + 1)  # with room, so that it looks for the end
    except zlib.error as error:
        raise InvalidMessage(
            ErrorCode.UNDECODABLE, f"it cannot be decompressed: {error}"
        ) from error
    if not stream.eof or stream.unused_data or len(plain) != size:
        raise InvalidMessage(ErrorCode.UNDECODABLE, "compressed, and cut off or followed by more")
    return plain


def _size(body: bytes) -> int:
    return int.from_bytes(body[-_SIZE:], "little")
