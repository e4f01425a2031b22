"""What an agent does on command."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from maniple.errors import ConfigurationError
from maniple_agent.domain.rejoin_backoff import RejoinBackoff
from maniple_agent.heartbeat import Heartbeats
from maniple_runtime.control.incarnations import began, is_of_the_future, later_life
from maniple_runtime.control.messages import Announce, Drain, Reconnect, Retire, Time


@dataclass
class Ending:
    """How the agent is told to leave, and how long what runs may take then, in seconds."""

    stop: Callable[[], None]
    seconds: float
    taken: bool = False
    """Whether another process has taken the agent's id."""

    def begin_leaving(self, seconds: float | None) -> None:
        """Leave now; `seconds` can only shorten what the settings allow."""
        if seconds is not None:
            self.seconds = min(self.seconds, seconds)
        self.stop()

    def give_id_up(self) -> None:
        """Leave now: another process has taken the agent's id."""
        self.taken = True
        self.begin_leaving(None)

    def check_identity(self) -> None:
        """Raise `ConfigurationError` if the agent left because another has its id."""
        if self.taken:
            raise ConfigurationError(
                "another process has taken this agent's id: give each its own MANIPLE_INSTANCE"
            )


@dataclass(frozen=True)
class AgentCommands:
    """The commands' handlers, with what they act on."""

    heartbeats: Heartbeats
    ending: Ending
    reconnect: Callable[[], None]
    renew: Callable[[Iterable[str]], None]
    new_id: Callable[[], str]
    monotonic: Callable[[], float]
    hear: Callable[[Time], None] = lambda _: None
    """Takes the cluster's time."""
    returning: RejoinBackoff = field(default_factory=RejoinBackoff)

    def announce(self, _command: Announce) -> None:
        """Send the description in full."""
        self.heartbeats.announce()

    def on_drain(self, command: Drain) -> None:
        """Leave as on SIGTERM."""
        self.ending.begin_leaving(command.timeout)

    def retire(self, command: Retire) -> None:
        """Come back as a new incarnation, or leave, if it is this one that was declared failed.

        One that is told so again and again waits before it comes back: it is told once more. Behind
        a life that began while our clock was far ahead comes one by the clock as it is now: others
        would refuse a later one as well.
        """
        if command.incarnation != self.heartbeats.incarnation:
            return
        if command.replaced:
            log = structlog.get_logger("maniple.agent.handlers")
            log.error("another process has taken this agent's id; leaving")
            self.ending.give_id_up()
        elif self.returning.allows(self.monotonic()):
            fresh = self.new_id()
            by_clock = began(fresh)
            ahead = by_clock is not None and is_of_the_future(command.incarnation, by_clock)
            ended = "" if ahead else command.incarnation
            self.heartbeats.begin_new_life(later_life(fresh, ended, command.after))

    def rebuild(self, command: Reconnect) -> None:
        """Build the connections of the hot path anew, or only consume some places anew.

        What does not answer then is no longer told to be consumed.
        """
        if command.places:
            self.renew(command.places)
            self.heartbeats.hurry()
        else:
            self.reconnect()
