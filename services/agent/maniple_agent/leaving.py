"""A task that leaves an agent without having ended, until the broker has it."""

from collections.abc import Callable
from dataclasses import dataclass

from maniple.errors import ManipleError
from maniple_runtime.publish.batch_publisher import BatchPublisher
from maniple_runtime.publish.confirm import ConfirmCallback, InFlightPublish

LONGEST_PAUSE = 5.0  # of what has only to pass a dispatcher, which ends it if its time is over


class Withdrawn(ManipleError):
    """It was not sent, because what was sent before it is not confirmed."""


@dataclass(frozen=True, slots=True, eq=False)
class LeavingTask:
    """What leaves: an envelope, whom to tell, and whether there may be two of it.

    `most` is the longest that it has time to wait, in seconds.
    """

    encoded: bytes
    done: ConfirmCallback
    may_copy: bool
    most: float = LONGEST_PAUSE


class Leaving:
    """A `done` of what may have to go another way; `told` hears of it first."""

    __slots__ = ("_told", "done", "instead", "outlet", "ticket")
    ticket: InFlightPublish["Leaving"] | None

    def __init__(
        self,
        outlet: BatchPublisher,
        done: ConfirmCallback,
        instead: Callable[[], None],
        told: Callable[["Leaving", ManipleError | None], None],
    ) -> None:
        self.outlet, self.done, self.instead = outlet, done, instead
        self._told = told
        self.ticket = None

    def __call__(self, error: ManipleError | None) -> None:
        """Have it told what became of the publish."""
        self._told(self, error)
