"""The time by which deadlines are set and judged in every process: that of the registries.

The clocks of two machines are never compared. A registry broadcasts its time; the time since then
is measured by a steady clock. So the known time can only be late, by as long as the broadcast took.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from maniple.clock import Clock
from maniple.timings import Clocks
from maniple_runtime.control.messages import Time
from maniple_runtime.health import Health

COMPONENT = "clock"
MOST_SOURCES: Final = 16
YEARS: Final = range(2000, 9000)
TWICE: Final = 2
COMPARED: Final = 0.1  # seconds after which this machine's clock, which may be set, is compared


class ClusterTime:
    """The cluster's time, as registries broadcast it; until then this machine's own.

    Of several registries that broadcast lately the middle value counts, of two the earlier one:
    nothing ends too early because one clock is ahead. The time is kept when no registry broadcasts
    any more.
    """

    def __init__(self, machine: Clock, times: Clocks | None = None) -> None:
        """Begin with this machine's clock.

        What has passed goes by its `steady`. By its `monotonic`, which stands still meanwhile, a
        machine that was suspended would be behind by that for ever.
        """
        self._wall, self._steady = machine.now, machine.steady
        self._times = times or Clocks()
        self.clock = replace(machine, now=self.now)
        """This machine's, but for the time of day, which is `now`."""
        self._heard: dict[str, deque[tuple[float, float]]] = {}
        self._difference: float | None = None
        self._off = 0.0
        self._compare_at = 0.0

    def on_time(self, told: Time) -> None:
        """Apply a registry's broadcast."""
        if told.at.year not in YEARS:
            return
        now = self._steady()
        heard = self._heard.setdefault(told.source, deque())
        heard.append((now, told.at.timestamp() - now))
        self._forget_if_set_back(heard)
        self._drop(now - self._times.kept)
        latest = sorted(max(ahead for _, ahead in one) for one in self._heard.values())
        self._difference = latest[(len(latest) - 1) // 2]
        self._compare_at = now

    def known(self) -> datetime | None:
        """Return the cluster's time, or None where no registry has broadcast it yet."""
        if self._difference is None:
            return None
        return datetime.fromtimestamp(self._difference + self._steady(), UTC)

    def now(self) -> datetime:
        """Return the time for timestamps: this machine's, if that may be the cluster's.

        The known time is late by as long as the broadcast took, differently in each process: with
        it alone the parts of a trace would be out of order. But whether a deadline has passed is
        judged by `known`.
        """
        off = self.off()
        return self._wall() - timedelta(seconds=off) if off else self._wall()

    def off(self) -> float:
        """Return by how many seconds this machine's clock is ahead of `now`.

        The comparison is repeated only now and then, because every event gets a timestamp.
        """
        now = self._steady()
        if now >= self._compare_at:
            self._compare_at = now + COMPARED
            ahead = self._ahead()
            good = -self._times.behind <= ahead <= self._times.agree
            self._off = 0.0 if good else ahead
        return self._off

    def wrong(self) -> float:
        """Return by how many seconds this machine's clock is ahead; 0 if that is negligible."""
        ahead = self._ahead()
        return ahead if abs(ahead) > self._times.agree else 0.0

    def _ahead(self) -> float:
        known = self.known()
        return 0.0 if known is None else (self._wall() - known).total_seconds()

    def _forget_if_set_back(self, heard: deque[tuple[float, float]]) -> None:
        """Forget a registry after two late values in a row: its clock was set back."""
        last = list(heard)[-TWICE:]
        limit = max(ahead for _, ahead in heard) - self._times.agree
        if len(last) == TWICE and all(ahead < limit for _, ahead in last):
            heard.clear()
            heard.extend(last)

    def _drop(self, before: float) -> None:
        for source, heard in tuple(self._heard.items()):
            while heard and heard[0][0] < before:
                heard.popleft()
            if not heard:
                del self._heard[source]
        while len(self._heard) > MOST_SOURCES:
            del self._heard[next(iter(self._heard))]


def follow(time: ClusterTime, health: Health) -> Callable[[Time], None]:
    """Return a handler of `Time` that reports at `/health` if this machine's clock is wrong."""

    def told(message: Time) -> None:
        time.on_time(message)
        wrong = time.wrong()
        side = "ahead of" if wrong > 0 else "behind"
        detail = f"this machine's is {abs(wrong):.0f} s {side} the cluster's" if wrong else ""
        health.set(COMPONENT, ok=not wrong, detail=detail)

    return told
