"""Submitting many tasks from JSON lines, with a progress bar and in bounded memory."""

import asyncio
import contextlib
import os
import stat
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from msgspec import Raw
from msgspec.structs import asdict, replace
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from maniple import codec
from maniple.causes import lines_of
from maniple.client import Client, connect
from maniple.errors import ConfigurationError, ErrorCode, InvalidMessage, ManipleError
from maniple.malformed import BOM
from maniple.messages import MAX_BODY, Failure, Result, Status, Task
from maniple_cli.jsonl import Line, LineReader
from maniple_cli.output import (
    ExitCode,
    complain,
    error_console,
    explain,
    print_bytes,
    print_line,
    why,
)

CONFIRMED_TOGETHER = 1000
SHOWN_ERRORS = 20
STDIN = "-"
_BLANK = Task()


@dataclass(frozen=True)
class BulkOptions:
    """What to submit and how. `fields` are for tasks whose line does not set them."""

    source: str
    output: Path | None
    capability: str | None
    fields: Mapping[str, Any]
    wait: bool = True
    as_json: bool = False


class Bulk:
    """One run of `maniple submit --file`."""

    def __init__(self, options: BulkOptions) -> None:
        """Describe the run."""
        self._options = options
        self._numbers: deque[int] = deque()
        self._sink: _Output | None = None
        self._advance = _silent
        self.counts: dict[str, int] = {}

    async def submit_all(self, url: str) -> ExitCode:
        """Submit everything and return the exit code.

        Raises `ConfigurationError` for files that cannot be used, before anything is submitted.
        """
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            source, size = _open(self._options.source, stack)
            _check_apart(source, self._options.output)
            if sys.stderr.isatty():
                self._advance = stack.enter_context(_bar(size))
            lines = LineReader(source)
            async with connect(url) as client:
                await _begun(lines, self._options.source)
                if self._options.output is not None:  # what stands in it is lost from here on
                    self._sink = _Output(self._options.output)
                    stack.callback(self._sink.close_file)
                if self._options.wait:
                    await self._with_results(client, lines)
                else:
                    await self._without_results(client, lines)
        self._summarise(time.monotonic() - started)
        failed = any(count for status, count in self.counts.items() if status not in _GOOD)
        return ExitCode.FAILED if failed else ExitCode.DONE

    async def _with_results(self, client: Client, lines: LineReader) -> None:
        async for result in client.outcomes(self._tasks(lines)):
            self._ended(self._numbers.popleft(), result)

    async def _without_results(self, client: Client, lines: LineReader) -> None:
        pending: list[Task] = []
        async for task in self._tasks(lines):
            pending.append(task)
            if len(pending) == CONFIRMED_TOGETHER:
                await self._confirm(client, pending)
                pending = []
        await self._confirm(client, pending)

    async def _confirm(self, client: Client, tasks: list[Task]) -> None:
        sent = await asyncio.gather(
            *(client.submit_task(task) for task in tasks), return_exceptions=True
        )
        for task, handle in zip(tasks, sent, strict=True):
            number = self._numbers.popleft()
            if isinstance(handle, InvalidMessage):
                self._ended(number, _refused(handle, task))
            elif isinstance(handle, BaseException):
                raise handle
            else:
                client.forget(handle)
                self._count("submitted")

    async def _tasks(self, lines: LineReader) -> AsyncIterator[Task]:
        async for line in lines.read(self._read):
            try:
                task = self._task(line)
            except InvalidMessage as error:
                self._ended(line.number, _refused(error))
                continue
            self._numbers.append(line.number)
            yield task

    def _read(self, size: int) -> None:
        self._advance(size, self.counts)

    def _task(self, line: Line) -> Task:
        if line.content is None:
            raise InvalidMessage(ErrorCode.PAYLOAD_TOO_LARGE, f"longer than {MAX_BODY:,} bytes")
        if line.content.startswith(BOM):  # as of files that were put together
            raise InvalidMessage(
                ErrorCode.UNDECODABLE,
                "it begins with a byte order mark, which only a file may: drop it",
            )
        if self._options.capability is not None:
            codec.check_text(line.content)
            codec.decode_value(line.content)
            return Task(
                capability=self._options.capability,
                payload=Raw(line.content),
                **self._options.fields,
            )
        if not line.content.startswith(b"{"):
            raise InvalidMessage(ErrorCode.INVALID_TASK, "a line must be one task object")
        (task,) = codec.decode_submission(line.content)
        if isinstance(task, InvalidMessage):
            raise task
        given = asdict(task)
        missing = {k: v for k, v in self._options.fields.items() if given[k] == getattr(_BLANK, k)}
        return replace(task, **missing) if missing else task

    def _ended(self, number: int, result: Result) -> None:
        self._count(result.status)
        if self._options.as_json or self._sink is not None:
            line = b'{"line":%d,' % number + codec.encode(result)[1:]
            if self._sink is not None:
                self._sink.write(line + b"\n")
            if self._options.as_json:
                print_bytes(line)
        if result.error is not None:
            self._complain(number, result.status, result.error)

    def _complain(self, number: int, status: Status, failure: Failure) -> None:
        shown = sum(count for name, count in self.counts.items() if name not in _GOOD)
        if shown <= SHOWN_ERRORS:
            complain(f"line {number}: {status}: {failure.code}: {failure.message}")
            explain(lines_of(failure.detail))
        if shown == SHOWN_ERRORS:
            complain("… further failures are only counted here")

    def _count(self, status: str) -> None:
        self.counts[str(status)] = self.counts.get(str(status), 0) + 1
        self._advance(0, self.counts)

    def _summarise(self, seconds: float) -> None:
        total = sum(self.counts.values())
        parts = ", ".join(f"{count:,} {status}" for status, count in sorted(self.counts.items()))
        rate = total / seconds if seconds else 0.0
        text = f"{total:,} tasks in {seconds:.1f} s ({rate:,.0f}/s): {parts or 'nothing'}"
        if self._options.as_json:
            error_console().print(text, soft_wrap=True)
        else:
            print_line(text)


_GOOD = ("submitted", str(Status.SUCCEEDED))


def _refused(error: InvalidMessage, task: Task = _BLANK) -> Result:
    return Result(
        id=task.id or "",
        capability=task.capability or "",
        tenant=task.tenant,
        status=Status.REJECTED,
        error=Failure(code=error.code, message=error.message, detail=error.detail),
    )


def _open(name: str, stack: contextlib.ExitStack) -> tuple[IO[bytes], int | None]:
    if name == STDIN:
        return sys.stdin.buffer, None
    path = Path(name)
    try:
        source = stack.enter_context(path.open("rb"))
        return source, path.stat().st_size if path.is_file() else None
    except (OSError, ValueError) as error:  # a path with a NUL in it
        raise _unreadable(name, error) from error


async def _begun(lines: LineReader, source: str) -> None:
    try:
        await lines.begin("standard input" if source == STDIN else source)
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"--file {source} cannot be read: {why(error)}; "
        f"give a file of JSON lines, or {STDIN!r} for standard input"
    )


class _Output:
    """The file for the results, truncated; an error in writing names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"--output {path} cannot be written: {why(error)}; "
                "give a file that may be written, in a folder that is there"
            ) from error

    def write(self, line: bytes) -> None:
        with self._told():
            self._file.write(line)

    def close_file(self) -> None:
        with self._told():
            self._file.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ManipleError(
                f"--output {self._path} cannot be written: {why(error)}; not all results are in "
                "it, and what was submitted goes on"
            ) from error


def _check_apart(source: IO[bytes], output: Path | None) -> None:
    """Raise `ConfigurationError` where the results would overwrite the input."""
    if output is None or not output.exists():
        return
    with contextlib.suppress(OSError, ValueError):  # a test's standard input is no file
        read = os.fstat(source.fileno())
        if stat.S_ISREG(read.st_mode) and os.path.samestat(read, output.stat()):
            raise ConfigurationError(f"--output {output} is the file that is to be read")


def _silent(_read: int, _counts: Mapping[str, int]) -> None:
    """Show no progress."""


@contextlib.contextmanager
def _bar(size: int | None) -> Iterator[Any]:
    """Show how much of the input was read and how its tasks ended so far."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as progress:
        bar = progress.add_task("submit", total=size, state="")
        shown = time.monotonic()
        read_since = 0

        def advance(read: int, counts: Mapping[str, int]) -> None:
            nonlocal shown, read_since
            read_since += read
            if (now := time.monotonic()) - shown > 0.1:  # noqa: PLR2004 - ten times a second
                state = ", ".join(f"{count:,} {status}" for status, count in counts.items())
                progress.update(bar, advance=read_since, state=state)
                shown, read_since = now, 0

        yield advance
