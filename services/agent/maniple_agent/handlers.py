"""What an agent does on command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from maniple.control import Announce, Command, Drain, Incarnation, Reconnect, Retire
from maniple_agent.heartbeat import Heartbeats


@dataclass(frozen=True)
class Handlers:
    """The commands' handlers, with what they act on."""

    heartbeats: Heartbeats
    stop: Callable[[], None]
    reconnect: Callable[[], None]
    new_id: Callable[[], str]

    def announce(self, _command: Announce) -> None:
        """Send the description in full."""
        self.heartbeats.announce()

    def drain(self, _command: Drain) -> None:
        """Leave as on SIGTERM."""
        self.stop()

    def retire(self, command: Retire) -> None:
        """Come back as a new incarnation, if it is this one that was declared failed."""
        if command.incarnation == self.heartbeats.incarnation:
            self.heartbeats.begin_new_life(Incarnation(self.new_id()))

    def rebuild(self, _command: Reconnect) -> None:
        """Build the connections of the hot path anew."""
        self.reconnect()


def routes(handlers: Handlers) -> Mapping[type[Command], Callable[[Any], None]]:
    """Return which command goes to which handler."""
    return {
        Announce: handlers.announce,
        Drain: handlers.drain,
        Retire: handlers.retire,
        Reconnect: handlers.rebuild,
    }
