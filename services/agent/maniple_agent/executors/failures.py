"""Why handlers fail, for who has written them: in the agent's log, with traceback, task and trace.

Payloads are not logged, and what an exception says may quote one: that is for who submitted, and
here it is left out. A handler may fail thousands of times a second, so that tracebacks are told at
a bounded rate.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator

import structlog

from maniple.causes import MOST_ERRORS
from maniple.errors import ErrorCode, InvalidMessage, TaskError
from maniple_runtime.allowance import Allowance

AT_ONCE = 20
A_SECOND = 5.0
MOST_FRAMES = 50
MAX_TRACEBACK = 16_000  # characters


class Failures:
    """Logs what handlers raise; for any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with room for some at once."""
        self._clock = clock
        self._allowance = Allowance(A_SECOND, AT_ONCE)
        self._left_out = 0
        self._lock = threading.Lock()
        self._log = structlog.get_logger("maniple.task")

    def tell(self, error: BaseException) -> None:
        """Log an error, where the context says whose it is; what is too much is counted.

        Nothing of a payload that does not fit: it is its sender's mistake, who is told.
        """
        if isinstance(error, InvalidMessage) and error.code == ErrorCode.INVALID_TASK:
            return
        with self._lock:
            if not self._allowance.take(self._clock()):
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        with contextlib.suppress(Exception):  # an error of the handler's own may be unreadable
            self._say(error, {"left_out": left_out} if left_out else {})

    def _say(self, error: BaseException, more: dict[str, int]) -> None:
        # What a handler says on purpose is no news for who runs the agent.
        say = self._log.debug if isinstance(error, TaskError) else self._log.warning
        say("an attempt failed", exception=_traceback_of(error), **more)


def _traceback_of(error: BaseException) -> str:
    text = "\n".join(_Traceback().lines(error)).encode("utf-8", "replace").decode()
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n…\n{text[-half:]}"


class _Traceback:
    """Where an error and those behind it were raised, as Python shows it, but not what they say."""

    def __init__(self) -> None:
        self._left = MOST_ERRORS

    def lines(self, error: BaseException) -> Iterator[str]:
        self._left -= 1
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
        if cause is not None and self._left > 0:
            yield from self.lines(cause)
            yield "\nBecause of it, or while it was handled:\n"
        yield "Traceback (most recent call last):"
        for frame in traceback.format_tb(error.__traceback__, limit=-MOST_FRAMES):
            yield frame.rstrip()
        yield type(error).__name__
        for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            if self._left > 0:
                yield from (f"  | {line}" for line in self.lines(inner))
