"""Whether what was sampled of a process, a queue or the broker is flat. Pure.

A series is judged by two medians: of the tenth of it that follows its first tenth, and of its last
tenth. A collection that is due or a burst that is under way is in a few samples and moves neither.
A process has a series for each of its lives, as one that was killed starts anew; a life that is too
short to tell growth from warming up is shown and not judged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

PARTS = 10  # the first warms up, the second is what the last is compared with
FLAT = 1.1  # by which memory may have changed
HANDLES = 3  # descriptors: of the four threads that ask Consul each connects when first needed
OBJECTS = 5  # the same of the broker's; an agent has more, so that what one leaves behind is seen
WAITING_SECONDS = 1.0  # of tasks by which a queue may be longer: a burst, not a trend
CARRIED = 0.98  # of the rate
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A series in short: medians `early` and `late`, and the `seconds` between their middles."""

    early: float
    late: float
    most: float
    seconds: float

    @property
    def an_hour(self) -> float:
        """By how much it would grow in an hour if it went on like this."""
        return (self.late - self.early) / self.seconds * HOUR


@dataclass
class Series:
    """Samples of one thing, in the order of their times (seconds)."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, time: float, value: float) -> None:
        """Append a sample."""
        self.times.append(time)
        self.values.append(value)

    @property
    def lasted(self) -> float:
        """Seconds from the first sample to the last."""
        return self.times[-1] - self.times[0] if self.times else 0.0

    @property
    def trend(self) -> Trend:
        """How it went; of one too short for ten parts, of its two halves."""
        count = len(self.values)
        size = max(1, count // PARTS)
        start = size if count >= PARTS else 0
        return Trend(
            early=median(self.values[start : start + size]),
            late=median(self.values[-size:]),
            most=max(self.values),
            seconds=max(1.0, self.times[-1] - self.times[min(count - 1, start + size - 1)]),
        )


@dataclass
class Life:
    """One life of a process: private memory in MiB, and open descriptors."""

    name: str
    pid: int
    memory: Series = field(default_factory=Series)
    descriptors: Series = field(default_factory=Series)


@dataclass
class Samples:
    """All that was sampled while there was load.

    `queues` are messages by queue, where private queues of one purpose add up; `objects` are how
    many connections, channels, queues and consumers the broker has.
    """

    lives: list[Life] = field(default_factory=list)
    queues: dict[str, Series] = field(default_factory=dict)
    objects: dict[str, Series] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pace:
    """What was to be submitted and what was, in tasks a second."""

    wanted: float
    carried: float


def breaches(samples: Samples, pace: Pace, shortest: float) -> Iterator[str]:
    """Tell, a sentence each, what was not flat; lives below `shortest` seconds are not judged."""
    judged = [life for life in samples.lives if life.memory.lasted >= shortest]
    for life in judged:
        yield from _of_life(life)
    for name in sorted({life.name for life in samples.lives} - {life.name for life in judged}):
        yield f"{name} never lived for {shortest:.0f} s, so nothing can be said of it"
    if not samples.queues or not samples.objects:
        yield "nothing was heard of the broker's queues, so nothing can be said of them"
    room = WAITING_SECONDS * pace.wanted
    for name, more in _grown(samples.queues, room):
        yield f"queue {name} grows: {more.early:.0f} messages early, {more.late:.0f} at the end"
    for name, more in _grown(samples.objects, OBJECTS):
        yield f"the broker has {more.late:.0f} {name} at the end, {more.early:.0f} early"
    if pace.carried < CARRIED * pace.wanted:
        yield f"{pace.carried:.0f} tasks/s were submitted of {pace.wanted:.0f} that were due"


def _of_life(life: Life) -> Iterator[str]:
    memory, open_ones = life.memory.trend, life.descriptors.trend
    if memory.late > FLAT * memory.early:
        yield (
            f"{life.name} (process {life.pid}) grows: {memory.early:.1f} MiB after its first "
            f"tenth, {memory.late:.1f} at the end, {memory.an_hour:+.1f} MiB an hour"
        )
    if open_ones.late > open_ones.early + HANDLES:
        yield (
            f"{life.name} (process {life.pid}) leaks descriptors: {open_ones.early:.0f} open "
            f"after its first tenth, {open_ones.late:.0f} at the end"
        )


def _grown(found: Mapping[str, Series], room: float) -> Iterator[tuple[str, Trend]]:
    for name, series in sorted(found.items()):
        trend = series.trend
        if trend.late > trend.early + room:
            yield name, trend
