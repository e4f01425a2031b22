"""Which functions of a program run, and in how deep a chain of calls, while somebody looks."""

import inspect
import opcode
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

AWAITING = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
RESUME, AFTER_AWAIT = opcode.opmap["RESUME"], 3  # that instruction, and what its argument then says
# A comprehension is no function, nor is the body of a module; Python 3.12 inlines most of them.
PARTS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<module>"}

Chain = tuple[CodeType, ...]
Ran = Mapping[CodeType, Chain]
"""The functions that ran, in the order of their first entry, each with the longest chain to it."""


class Recorder:
    """Hears of the calls in this thread, and in those that are started while it is installed.

    A chain is what is on the stack of a thread since its loop, or a wait, has given it control: who
    awaits something that has waited is called again only to hand the control on, and counts for
    nothing. Frames of others are passed over.
    """

    def __init__(self, is_ours: Callable[[CodeType], bool]) -> None:
        """Record functions that are ours."""
        self._is_ours = is_ours
        self._known: dict[CodeType, bool] = {}
        self._ran: dict[CodeType, Chain] | None = None
        self._stacks = threading.local()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hear of calls for the time of the block."""
        threading.setprofile(self._hear)
        sys.setprofile(self._hear)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def recording(self) -> Iterator[dict[CodeType, Chain]]:
        """Yield what gets to hold whatever runs in the block."""
        self._stacks = threading.local()
        self._ran = {}
        try:
            yield self._ran
        finally:
            self._ran = None

    def _hear(self, frame: FrameType, event: str, _: Any) -> None:
        ran = self._ran
        if ran is None or event not in ("call", "return"):
            return
        stack: list[Chain] = self._stacks.__dict__.setdefault("stack", [])
        if event == "return":
            if stack:  # else it was called before the recording began
                stack.pop()
            return
        code = frame.f_code
        chain = () if not stack or _has_waited(frame) else stack[-1]
        if self._counts(code):
            chain = (*chain, code)
            if len(chain) > len(ran.get(code, ())):
                ran[code] = chain
        stack.append(chain)

    def _counts(self, code: CodeType) -> bool:
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = code.co_name not in PARTS and self._is_ours(code)
        return known


def _has_waited(frame: FrameType) -> bool:
    """Whether a coroutine goes on after it has waited."""
    code = frame.f_code
    if not code.co_flags & AWAITING:
        return False
    begins, how = code.co_code[frame.f_lasti : frame.f_lasti + 2]
    return begins == RESUME and how & 3 == AFTER_AWAIT


def is_below(folders: Iterable[Path]) -> Callable[[CodeType], bool]:
    """Return what tells whether a function is written in a file below one of these folders."""
    roots = tuple(f"{folder}/" for folder in folders)
    return lambda code: code.co_filename.startswith(roots)


@dataclass(frozen=True)
class File:
    """A file that was gone through: its lines, and which of its functions ran."""

    path: str
    lines: int
    functions: tuple[str, ...]


@dataclass(frozen=True)
class Walk:
    """What ran because of something: files in the order of first entry, and the longest chain."""

    files: tuple[File, ...]
    deepest: tuple[str, ...]

    @property
    def lines(self) -> int:
        """Lines of all files."""
        return sum(file.lines for file in self.files)


def walk_of(rounds: Sequence[Ran], quiet: AbstractSet[CodeType], root: Path) -> Walk:
    """Return what ran in most of the rounds, and not in the quiet as well.

    Paths are told from `root` on.
    """
    times = Counter(code for ran in rounds for code in ran)
    caused = {
        code: None
        for ran in rounds
        for code in ran
        if code not in quiet and times[code] > len(rounds) / 2
    }
    functions: dict[str, list[str]] = {}
    for code in caused:
        functions.setdefault(code.co_filename, []).append(code.co_qualname)
    files = tuple(
        File(_from(root, path), len(Path(path).read_text().splitlines()), tuple(names))
        for path, names in functions.items()
    )
    chains = [
        chain for ran in rounds for chain in ran.values() if not caused.keys().isdisjoint(chain)
    ]
    deepest = max(chains, key=len, default=())
    return Walk(files, tuple(f"{_from(root, c.co_filename)}: {c.co_qualname}" for c in deepest))


def _from(root: Path, path: str) -> str:
    return Path(path).relative_to(root).as_posix()
