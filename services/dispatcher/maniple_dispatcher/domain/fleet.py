"""The dispatchers as one: whoever owns a limit decides, and all know what it decided. Pure.

A dispatcher that begins, or that may have missed something (it was frozen, or its connection was
lost), says so and owns nothing for a second. The others tell it all they know; then it says that it
is ready, and counts from when that is heard, by all at about the same time.
"""

from collections.abc import Callable
from itertools import islice

from maniple.peers import Ask, DispatcherReport, Grant, Level, Room
from maniple_dispatcher.domain.buckets import Taken
from maniple_dispatcher.domain.owned import Owned, limit_asked
from maniple_dispatcher.domain.peers import Peers
from maniple_dispatcher.domain.permits import Limit, Permits, Then

LISTENS_FOR = 1.0
TELLS_ALL_EVERY = 0.25  # seconds, to those who listen; they may report a hundred times as often
MAX_LEVELS = 5_000


class Fleet:
    """Where permits are asked for.

    `due` says that there is something to tell the others now; `wake` is called when it becomes so.
    """

    def __init__(self, me: str, owned: Owned, now: float) -> None:
        self.owned = owned
        self.peers = Peers(me)
        self.permits = Permits(self.peers)
        self.wake: Callable[[], object] = lambda: None
        self._due = True
        self._began = now
        self._full = False
        self._full_at = float("-inf")
        self._leaving = False
        self._grants: list[Grant] = []

    @property
    def due(self) -> bool:
        """Whether there is something to tell."""
        return self._due

    @due.setter
    def due(self, due: bool) -> None:
        self._due = due
        if due:
            self.wake()

    def ask(self, limit: Limit, then: Then, now: float) -> None:
        """Ask for one permit; `then` is told at once, or within about a second."""
        if self.peers.owns(limit.key):
            _tell(then, self.owned.take(limit, 1, now))
            self.due = self.due or not self.peers.alone
        else:
            self.permits.wait(limit, then, now)
            self.due = True

    def free(self, limit: Limit, now: float) -> None:
        """Give back a permit that was not needed."""
        if self.peers.owns(limit.key):
            self.owned.free(limit, 1, now)
        else:
            self.permits.free(limit)
            self.due = True

    def hear(self, report: DispatcherReport, now: float) -> None:
        """Take what a dispatcher says; our own word counts too, when it comes back."""
        if report.leaving:
            self.peers.left(report.dispatcher)
            if report.dispatcher == self.peers.me:
                return
        else:
            ready = report.ready
            if report.dispatcher == self.peers.me:  # not what was said before we began anew
                ready = ready and now - self._began >= LISTENS_FOR
            new = self.peers.heard(report.dispatcher, now, ready=ready)
            if report.dispatcher == self.peers.me:
                return
            if new or (not report.ready and now - self._full_at >= TELLS_ALL_EVERY):
                self._full = self.due = True
                self._full_at = now
        for key, level in report.levels.items():
            self.owned.buckets.follow(key, level, now, ours=self.peers.owns(key))
        for key, room in report.rooms.items():
            self.owned.bulkheads.follow(key, room, now, ours=self.peers.owns(key))
        self.owned.follow(report.breakers, now)
        for ask in report.asks:
            self._answer(ask, report.dispatcher, now)
        for grant in report.grants:
            self.permits.answered(grant, now)

    def _answer(self, ask: Ask, asker: str, now: float) -> None:
        if ask.to != self.peers.me or not self.peers.owns(ask.key):
            return  # it will ask who owns it by then
        limit = limit_asked(ask)
        self.owned.used(limit, ask.used, now)
        self.owned.free(limit, ask.freed, now)
        taken = self.owned.take(limit, ask.want, now)
        self._grants.append(
            Grant(
                key=ask.key,
                to=asker,
                number=ask.number,
                granted=taken.granted,
                again=taken.again,
                first=taken.first,
                step=taken.step,
            )
        )
        self.due = True

    def look(self, now: float) -> None:
        """Let time pass; to be called some times a second."""
        self.peers.look(now)
        for limit, waiting in self.permits.look(now):
            used, freed = self.permits.settled(limit.key)
            self.owned.used(limit, used, now)
            self.owned.free(limit, freed, now)
            for then in waiting:
                _tell(then, self.owned.take(limit, 1, now))
        self.due |= self.permits.due
        self.owned.bulkheads.look(self.peers.owns, now)
        self.due |= self.owned.look(self.peers.owns, now)

    def rejoin(self, now: float) -> None:
        """Begin anew: something may have been missed."""
        self.peers.left(self.peers.me)
        self.owned.bulkheads.clear()
        self._began = now
        self.due = True

    def leave(self) -> None:
        """Own nothing any more, from when this is heard."""
        self._leaving = self.due = True

    def report(self, now: float) -> DispatcherReport:
        """Return what is to be told now."""
        full, self._full = self._full, False
        grants, self._grants = self._grants, []
        levels, rooms = self._changes(now, full=full)
        self.due = False
        return DispatcherReport(
            dispatcher=self.peers.me,
            ready=not self._leaving and now - self._began >= LISTENS_FOR,
            leaving=self._leaving,
            asks=tuple(self.permits.asks(now)),
            grants=tuple(grants),
            levels=levels,
            rooms=rooms,
            breakers=tuple(self.owned.news(now, full=full)),
        )

    def _changes(self, now: float, *, full: bool) -> tuple[dict[str, Level], dict[str, Room]]:
        """Return what is to be told of buckets and bulkheads: what has changed, or all."""
        levels, rooms = self.owned.buckets.changes(now), self.owned.bulkheads.changes()
        if full:
            levels.update(islice(self.owned.buckets.levels(now, self.peers.owns), MAX_LEVELS))
            rooms.update(islice(self.owned.bulkheads.rooms(self.peers.owns), MAX_LEVELS))
        elif self.peers.alone:
            return {}, rooms  # for one who has just come, and owns some of them from now on
        return levels, rooms


def _tell(then: Then, taken: Taken) -> None:
    if taken.granted:
        then(True, taken.wait(0))
    else:
        then(False, taken.again)
