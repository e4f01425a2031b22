"""Reading JSON lines of any number from a file or a pipe, in bounded memory."""

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import IO

from maniple.loops import in_thread_alone
from maniple.messages import MAX_BODY
from maniple_cli.texts import is_told, unmarked

CHUNK = 64 * 1024
READING = "maniple-reading"


@dataclass(frozen=True)
class Line:
    """A line that is not blank. `number` counts from 1; `content` is None when it is too long."""

    number: int
    content: bytes | None


class LineSplitter:
    """Splits chunks into lines; the content of one over `limit` bytes is dropped."""

    def __init__(self, limit: int = MAX_BODY) -> None:
        """Begin with line 1."""
        self._limit = limit
        self._rest = b""
        self._too_long = False
        self._number = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that end in this chunk."""
        *ended, rest = (self._rest + chunk).split(b"\n")
        lines = [line for content in ended if (line := self._line(content))]
        self._rest = rest
        if len(rest) > self._limit:
            self._rest, self._too_long = b"", True
        return lines

    def end(self) -> list[Line]:
        """Return the last line, if no newline ended it."""
        line = self._line(self._rest)
        self._rest = b""
        return [line] if line else []

    def _line(self, content: bytes) -> Line | None:
        self._number += 1
        too_long, self._too_long = self._too_long, False
        if too_long or len(content) > self._limit:
            return Line(self._number, None)
        content = content.strip()
        return Line(self._number, content) if content else None


class LineReader:
    """The lines of a file or a pipe; a slow pipe does not block the loop."""

    def __init__(self, source: IO[bytes]) -> None:
        """Set the source; nothing is read yet."""
        self._read = _reader(source)
        self._beginning = b""

    async def begin(self, name: str) -> None:
        """Read the first block. Raises `ConfigurationError`, about `name`, if it is not UTF-8."""
        beginning = await in_thread_alone(self._read, READING)
        while not is_told(beginning) and (more := await in_thread_alone(self._read, READING)):
            beginning += more
        self._beginning = unmarked(beginning, name)

    async def read(self, on_read: Callable[[int], None]) -> AsyncIterator[Line]:
        """Iterate over the lines, after `begin`; `on_read` is called with the bytes read."""
        splitter = LineSplitter()
        chunk = self._beginning
        while chunk:
            on_read(len(chunk))
            for line in splitter.feed(chunk):
                yield line
            chunk = await in_thread_alone(self._read, READING)
        for line in splitter.end():
            yield line


def _reader(source: IO[bytes]) -> Callable[[], bytes]:
    """Return a function that reads what is available, bypassing the buffer and its lock."""
    try:
        number = source.fileno()
    except OSError:  # it is no file
        return lambda: source.read(CHUNK)
    return lambda: os.read(number, CHUNK)
