"""Dispatchers that share limits, in simulated time: messages take milliseconds, and may be lost."""

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count

from maniple.timings import Peers
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import Limit
from maniple_dispatcher.limits.messages import DispatcherReport
from permits import ask_permit

TRAVEL = 0.004
COLLECT = 0.004
PRESENCE = 0.5
LOOK = 0.05


class Simulation:
    """Some dispatchers and a clock; `passed` counts permits by whole seconds.

    `travel` returns the seconds that a report takes to one listener; those of one dispatcher arrive
    in the order in which they were sent.
    """

    def __init__(self, dispatchers: int, travel: Callable[[], float] = lambda: TRAVEL) -> None:
        self.now = 0.0
        self._travel = travel
        self._arrivals: dict[tuple[str, str], float] = {}
        self._frozen_until: dict[str, float] = {}
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self.alive: dict[str, Coordinator] = {}
        self._told: dict[str, float] = {}
        self.passed: Counter[int] = Counter()
        self.refused: list[float] = []
        self.ends: list[tuple[float, bool]] = []
        """When each task came, and whether it passed."""
        for number in range(dispatchers):
            self.start(f"dispatcher-{number}")
        self.run(3.0)

    def start(self, name: str) -> None:
        self.alive[name] = coordinator = Coordinator(name, LeaseOwner(lambda _: None), self.now)
        self._told[name] = -1.0
        self._every(COLLECT, name, lambda: self._speak(name, coordinator))
        self._every(LOOK, name, lambda: coordinator.advance_time(self.now))

    def kill(self, name: str) -> None:
        del self.alive[name]

    def freeze(self, name: str, seconds: float) -> None:
        """Freeze a dispatcher; messages that arrive meanwhile are handled afterwards."""
        self._frozen_until[name] = self.now + seconds
        if seconds > Peers().stood_still:
            self.after(seconds, lambda: self.alive[name].rejoin(self.now))

    def owner(self, key: str) -> str:
        (owner,) = {coordinator.peers.owner(key) for coordinator in self.alive.values()}
        assert owner is not None
        return owner

    def submit(self, name: str, limit: Limit, tasks: int = 1) -> None:
        """Ask for permits as a dispatcher that receives this many tasks at once."""

        self._submit(name, limit, tasks, lambda: None)

    def _submit(self, name: str, limit: Limit, tasks: int, done: Callable[[], object]) -> None:
        came, open_ = self.now, set(range(tasks))

        def then(place: int, passes: bool | None, seconds: float) -> None:
            if passes:
                self.passed[int(self.now)] += 1
            else:
                self.refused.append(seconds)
            self.ends.append((came, bool(passes)))
            open_.discard(place)
            if not open_:
                done()

        for place in range(tasks):
            ask_permit(self.alive[name], limit, partial(then, place), self.now)

    def take_turns(self, name: str, limit: Limit, *, tasks: int) -> None:
        """Submit this many tasks at a time, the next when these are decided, while it lives."""

        def again() -> None:
            if self._frozen(name):
                self.after(self._frozen_until[name] - self.now, again)
            elif name in self.alive:
                self._submit(name, limit, tasks, lambda: self.after(COLLECT, again))

        again()

    def rate(self, begin: float, end: float) -> float:
        """Return how many tasks a second passed, of those that came between two times."""
        return sum(passes for came, passes in self.ends if begin <= came < end) / (end - begin)

    def load(
        self, names: list[str], limit: Limit, *, rate: float, seconds: float, tasks: int = 1
    ) -> None:
        """Submit `rate` tasks per second to each, `tasks` at once, for so many seconds."""
        for offset, name in enumerate(names):
            for number in range(round(rate * seconds / tasks)):
                at = offset * 0.0007 + number * tasks / rate
                self.after(at, partial(self._submit_if_alive, name, limit, tasks))
        self.run(seconds)

    def _submit_if_alive(self, name: str, limit: Limit, tasks: int) -> None:
        if name in self.alive and not self._frozen(name):
            self.submit(name, limit, tasks)

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        event = (self.now + seconds, next(self._order), do)
        heapq.heappush(self._events, event)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = end

    def _every(self, seconds: float, name: str, do: Callable[[], None]) -> None:
        coordinator = self.alive[name]

        def again() -> None:
            if self.alive.get(name) is coordinator:
                if not self._frozen(name):
                    do()
                self.after(seconds, again)

        self.after(seconds, again)

    def _frozen(self, name: str) -> bool:
        return self._frozen_until.get(name, 0.0) > self.now

    def _speak(self, name: str, coordinator: Coordinator) -> None:
        if coordinator.due or self.now - self._told[name] >= PRESENCE:
            self._told[name] = self.now
            report = coordinator.make_report(self.now)
            for listener in self.alive:
                way = name, listener
                self._arrivals[way] = max(self._arrivals.get(way, 0.0), self.now + self._travel())
                self.after(self._arrivals[way] - self.now, partial(self._hand, listener, report))

    def _hand(self, listener: str, report: DispatcherReport) -> None:
        if self._frozen(listener):
            late = self._frozen_until[listener] - self.now
            self.after(late, partial(self._hand, listener, report))
        elif listener in self.alive:
            self.alive[listener].on_report(report, self.now)
