"""Telling what became of a publish.

A `done` callback is called once, with None when the broker has confirmed or with the error: so that
a source message is acknowledged only after all that came of it is safe.
"""

import logging
from collections.abc import Callable, Iterable

from maniple.errors import ManipleError

ConfirmCallback = Callable[[ManipleError | None], None]

_log = logging.getLogger(__name__)


def as_ours(error: Exception) -> ManipleError:
    """Return an error that `done` callbacks take; what is none of ours is logged."""
    if isinstance(error, ManipleError):
        return error
    _log.error("a message cannot be published", exc_info=error)
    return ManipleError(f"cannot be published: {error!r}")


def tell(dones: Iterable[ConfirmCallback], error: ManipleError | None) -> None:
    """Call each; one that raises does not keep the others from hearing."""
    for done in dones:
        try:
            done(error)
        except Exception:  # noqa: BLE001 - the same
            _log.exception("what follows a publish failed")


def ignored(_error: ManipleError | None) -> None:
    """Take the end of what nobody waits for."""


class AllConfirmed:
    """Calls `done` when `count` parts have ended; the first error is the one it is told."""

    __slots__ = ("_count", "_done", "_error")

    def __init__(self, count: int, done: ConfirmCallback) -> None:
        """Wait for `count` calls of `part`."""
        self._count = count
        self._done = done
        self._error: ManipleError | None = None

    def part(self, error: ManipleError | None) -> None:
        """Take the end of one part."""
        self._error = self._error or error
        self._count -= 1
        if self._count == 0:
            self._done(self._error)
