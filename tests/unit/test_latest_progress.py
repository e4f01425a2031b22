"""What crosses from a handler's thread to the connection loop, at times that a test decides."""

from collections.abc import Callable
from contextvars import Context
from typing import Any

from executor_bench import Told, job
from maniple_agent.executors.latest_progress import PERIOD, LatestProgress


class Home:
    """A connection loop that runs what has crossed to it, and its timers, when it is told to."""

    def __init__(self) -> None:
        self.crossed: list[Callable[[], None]] = []
        self.timers: list[Timer] = []

    def call_soon_threadsafe(self, call: Callable[[], None], *, context: Context) -> None:
        assert list(context) == []
        self.crossed.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> "Timer":
        assert seconds == PERIOD
        self.timers.append(Timer(call))
        return self.timers[-1]

    def turn(self) -> int:
        """Run what has crossed; return how much that was."""
        crossed, self.crossed = self.crossed, []
        for call in crossed:
            call()
        return len(crossed)

    def after_a_period(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer.fire()


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def fire(self) -> None:
        if not self._cancelled:
            self._call()


class Flood:
    """A job that reports ever larger numbers, and what is told of them."""

    def __init__(self) -> None:
        self.home = Home()
        self.told = Told()
        home: Any = self.home
        self.latest = LatestProgress(job("it", "x.flood"), home, self.told.progress)
        self._number = 0

    def pours(self, count: int = 1000) -> int:
        for _ in range(count):
            self._number += 1
            self.latest.offer(self._number)
        return self._number


def test_a_flood_crosses_once_however_long_the_connection_loop_is_busy() -> None:
    flood = Flood()
    last = flood.pours()
    assert flood.home.turn() == 1
    assert flood.told.values == [last]


def test_a_flood_crosses_at_most_once_in_a_period_and_its_latest_value_is_told() -> None:
    flood = Flood()
    flood.pours()
    flood.home.turn()
    for periods in range(1, 4):
        flood.pours()
        assert flood.home.turn() == 1
        last = flood.pours()
        assert flood.home.turn() == 0
        assert len(flood.told.values) == periods
        flood.home.after_a_period()
        assert flood.told.values[periods:] == [last]


def test_what_is_reported_after_a_quiet_period_is_told_at_once() -> None:
    flood = Flood()
    flood.pours(1)
    flood.home.turn()
    flood.home.after_a_period()
    flood.pours(1)
    flood.home.turn()
    assert flood.told.values == [1, 2]


def test_the_last_value_is_told_at_the_end_and_none_after_it() -> None:
    flood = Flood()
    flood.pours(1)
    flood.home.turn()
    last = flood.pours()
    flood.latest.tell_last()
    flood.home.turn()
    assert flood.told.values == [1, last]
    flood.home.after_a_period()
    assert flood.told.values == [1, last]
