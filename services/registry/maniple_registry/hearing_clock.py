"""The registry's sense of time: what passes while it cannot hear is not held against agents."""

from maniple.clock import Clock
from maniple.timings import Watching
from maniple_registry.domain.agent_record import Instant


class HearingClock:
    """Counts only seconds in which the registry could hear: connected and not frozen itself.

    It must be read some times in `longest_step` seconds, or it takes itself for frozen. `take_off`
    sets it back; otherwise it never goes back.
    """

    def __init__(self, machine: Clock, *, longest_step: float | None = None) -> None:
        self._longest_step = longest_step or Watching().longest_step
        self._now, self._monotonic = machine.now, machine.monotonic
        self._lost = 0.0
        self._seen = machine.monotonic()
        self._hearing = True

    def now(self) -> Instant:
        """Return the time, without what was lost."""
        return Instant(self.seconds(), self._now())

    def seconds(self) -> float:
        """Return the seconds of `now`."""
        # In every reading: after a standstill messages that waited are read before anything else.
        now = self._monotonic()
        passed = now - self._seen
        self._seen = now
        if not self._hearing:
            self._lost += passed
        elif passed > self._longest_step:
            self._lost += passed - self._longest_step
        return now - self._lost

    def record_hearing(self, *, hearing: bool) -> None:
        """Say whether heartbeats can be heard from now on."""
        self.seconds()
        self._hearing = hearing

    def take_off(self, seconds: float) -> None:
        """Take time off in which, as it turned out, nothing could be heard."""
        self._lost += max(0.0, seconds)
