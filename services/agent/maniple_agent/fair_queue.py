"""The jobs that wait for the slots of one executor, and whose turn it is. Pure.

Each capability has a share of the slots and they take turns. A share is asked for its next job and
for how many of its run, and for nothing else: so it may be divided again, as by tenant, without a
change here.

A handler is not interrupted: what a long one has got is gone for as long as it runs. So nobody
takes another slot who has `GREED` times as many as are free. One alone so gets seven eighths, a
second one seven eighths of the rest; what both want evens out as their tasks end. Who has none may
take the last one.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from maniple.messages import Envelope
from maniple_agent.jobs import Job

Held = Callable[[Envelope], bool]
UNBOUNDED = 1_000_000_000
GREED: Final = 7
LEAST: Final = 4
"""Slots below which one is too much to leave."""


class FairShare:
    """What of one capability waits, and how much of it has slots."""

    __slots__ = ("bytes", "hold", "jobs", "kept", "most", "queued", "running", "waited_at")

    def __init__(self, hold: float, most: int = UNBOUNDED) -> None:
        """Begin with nothing; never have more than `most` slots."""
        self.jobs: deque[Job] = deque()
        self.most = most
        self.running = 0
        self.bytes = 0
        """Of the payloads that run."""
        self.kept = 0
        """Slots that it has although nothing of it runs there: what keeps them was given up."""
        self.queued = False
        """Whether it stands among those that take turns."""
        self.hold = hold
        """Seconds for which a job may wait here before it goes to others."""
        self.waited_at = -math.inf
        """When something was last seen to wait."""

    def pop_job(self, held: Held | None) -> Job | None:
        """Take out the first job that is not held."""
        job = first(self.jobs, held)
        if job is not None and job is self.jobs[0]:
            self.jobs.popleft()
        elif job is not None:
            self.jobs.remove(job)
        return job


class FairQueue:
    """The shares of one executor. One alone is not bounded, nor is any before `divide`."""

    def __init__(self, hold: float) -> None:
        """Begin with none; a job waits for `hold` seconds at first."""
        self._hold = hold
        self._capacity = 0
        self._most: dict[str, int] = {}
        self._shares: dict[str, FairShare] = {}
        self._order: deque[FairShare] = deque()
        self._pressed: set[FairShare] = set()
        self._alone: deque[Job] = deque()
        self._granted = 0
        self._keeps = False

    def __iter__(self) -> Iterator[FairShare]:
        return iter(self._shares.values())

    def divide(self, capabilities: Iterable[str], capacity: int, most: dict[str, int]) -> None:
        """Share out `capacity` slots among these; `most` bounds some of them besides."""
        names = tuple(capabilities)
        self._capacity = capacity if len(names) > 1 else 0
        self._most = most
        for name in names:
            self.share(name)

    def share(self, capability: str) -> FairShare:
        """Return the share of a capability."""
        known = self._shares.get(capability)
        if known is None:
            most = self._most.get(capability, UNBOUNDED)
            known = self._shares[capability] = FairShare(self._hold, most)
        return known

    def usable(self, capability: str, slots: int) -> int:
        """Return how many of so many slots a capability can have, if no other wants any."""
        most = most_of(slots) if self._capacity else slots
        return min(most, self._most.get(capability, UNBOUNDED))

    def queue(self, share: FairShare) -> None:
        """Queue a share that did not stand among those that take turns."""
        share.queued = True
        self._order.append(share)
        self._granted = 0

    def next(self, free: int, held: Held | None, spare: int | None) -> Job | None:
        """Take out the job whose turn it is, where so many slots are free.

        `spare` are the bytes of payloads that may run besides, if these are few.
        """
        if self._granted > 0 and self._alone and held is None and spare is None:
            self._granted -= 1
            return self._alone.popleft()
        return self._next(free, held, spare)

    def _next(self, free: int, held: Held | None, spare: int | None) -> Job | None:
        order = self._order
        for _ in range(len(order)):
            share = order[0]
            if not share.jobs:
                order.popleft().queued = False
                continue
            may = self._may(share, free) and (spare is None or is_modest(share.bytes, spare))
            job = share.pop_job(held) if may else None
            if len(order) > 1:
                order.rotate(-1)
            elif job is not None:
                self._grant(share, free)
            if job is not None:
                return job
        self._relax(free)
        return None

    def _grant(self, share: FairShare, free: int) -> None:
        """Grant the only one that waits what it may take in a row, without a look at each."""
        own = share.running + share.kept
        row = in_a_row(own, free, self._capacity) if self._capacity else free
        self._alone, self._granted = share.jobs, min(row, share.most - own) - 1

    def _may(self, share: FairShare, free: int) -> bool:
        own = share.running + share.kept
        if own >= share.most:
            return False
        return not self._capacity or may_take(own, free, self._capacity)

    def begin_round(self, free: int, taken: int, kept: Callable[[], Iterable[str]]) -> None:
        """Begin to give slots: so many are free, and so many taken.

        What runs has a slot each. Only if more are taken, or were, it is asked which capabilities
        keep one by what they have given up, once for each slot.
        """
        self._granted = 0
        if free and (self._keeps or taken > sum([one.running for one in self._shares.values()])):
            counted = Counter(kept())
            self._keeps = bool(counted)
            for name, share in self._shares.items():
                share.kept = counted[name]

    # --- what waits for too long ---------------------------------------------------------

    def take_overdue(self, now: float, longest: float) -> list[Job]:
        """Take out what has waited for too long; a share that stays full holds ever longer."""
        overdue: list[Job] = []
        for share in self._shares.values():
            if share.jobs:
                share.waited_at = now
            elif now - share.waited_at > self._hold:
                share.hold = self._hold
            late = take(share.jobs, opened_by=now - share.hold)
            if late:
                # The lane may well send it back to us: while we are full, ever more slowly.
                share.hold = min(longest, 2 * share.hold)
                self._pressed.add(share)
            overdue += late
        return overdue

    def _relax(self, free: int) -> None:
        """Begin anew with what has room and nothing that waits."""
        for share in tuple(self._pressed):
            if not share.jobs and self._may(share, free):
                share.hold = self._hold
                self._pressed.discard(share)


def first(jobs: deque[Job], held: Held | None) -> Job | None:
    """Return the first of these that is not held."""
    if held is None:
        return jobs[0] if jobs else None
    return next((job for job in jobs if not held(job.envelope)), None)


def take(jobs: deque[Job], *, opened_by: float) -> list[Job]:
    """Take out the jobs whose bundle came at that time or before."""
    going = [job for job in jobs if job.bundle.opened_at <= opened_by]
    if going:
        staying = [job for job in jobs if job.bundle.opened_at > opened_by]
        jobs.clear()
        jobs.extend(staying)
    return going


def may_take(own: int, free: int, capacity: int) -> bool:
    """Tell whether who has `own` of the slots may take one of those that are `free`."""
    if own == 0 or capacity < LEAST:
        return free > 0
    return free > 1 and own < GREED * free


def tight_from(whole: int) -> int:
    """Return how much of something is taken when `is_modest` may refuse somebody, at the least."""
    return GREED * whole // (GREED + 1)


def is_modest(own: int, spare: int) -> bool:
    """Tell whether who has `own` of what is taken in pieces of any size may have one more."""
    return own < GREED * spare


def in_a_row(own: int, free: int, capacity: int) -> int:
    """Return how many slots who has `own` may take one after the other, by `may_take`."""
    if free < 1 or capacity < LEAST:
        return max(0, free)
    even = (GREED * (free + 1) - own) // (GREED + 1)
    return max(own == 0, min(free - 1, even))


def most_of(capacity: int) -> int:
    """Return how many slots one that is alone may take."""
    return capacity if capacity < LEAST else capacity - max(1, capacity // (GREED + 1))
