"""What an agent does on command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from maniple.control import Announce, Command, Drain
from maniple_agent.heartbeat import Heartbeats


@dataclass(frozen=True)
class Handlers:
    """The commands' handlers, with what they act on."""

    heartbeats: Heartbeats
    stop: Callable[[], None]

    def announce(self, _command: Announce) -> None:
        """Send the description in full."""
        self.heartbeats.announce()

    def drain(self, _command: Drain) -> None:
        """Leave as on SIGTERM."""
        self.stop()


def routes(handlers: Handlers) -> Mapping[type[Command], Callable[[Any], None]]:
    """Return which command goes to which handler."""
    return {Announce: handlers.announce, Drain: handlers.drain}
