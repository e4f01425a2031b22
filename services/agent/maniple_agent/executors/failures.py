"""Why handlers fail, for who has written them: in the agent's log, with traceback, task and trace.

A handler may fail thousands of times a second, so that tracebacks are told at a bounded rate.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable
from time import monotonic

import structlog

from maniple.errors import ErrorCode, InvalidMessage, TaskError

AT_ONCE = 20
A_SECOND = 5.0
MOST_FRAMES = 50
MAX_TRACEBACK = 16_000  # characters


class Failures:
    """Logs what handlers raise; for any thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Begin with room for some at once."""
        self._clock = clock
        self._room = float(AT_ONCE)
        self._at = clock()
        self._left_out = 0
        self._lock = threading.Lock()
        self._log = structlog.get_logger("maniple.task")

    def tell(self, error: BaseException) -> None:
        """Log an error, where the context says whose it is; what is too much is counted."""
        with self._lock:
            if not self._has_room():
                self._left_out += 1
                return
            left_out, self._left_out = self._left_out, 0
        with contextlib.suppress(Exception):  # an error of the handler's own may be unreadable
            self._say(error, {"left_out": left_out} if left_out else {})

    def _has_room(self) -> bool:
        now = self._clock()
        self._room = min(float(AT_ONCE), self._room + (now - self._at) * A_SECOND)
        self._at = now
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True

    def _say(self, error: BaseException, more: dict[str, int]) -> None:
        # What a sender got wrong, or a handler says on purpose, is no news for who runs the agent.
        expected = isinstance(error, TaskError) or (
            isinstance(error, InvalidMessage) and error.code == ErrorCode.INVALID_TASK
        )
        say = self._log.debug if expected else self._log.warning
        say("an attempt failed", exception=_traceback_of(error), **more)


def _traceback_of(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-MOST_FRAMES)
    text = "".join(lines).encode("utf-8", "replace").decode().rstrip()
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n…\n{text[-half:]}"
