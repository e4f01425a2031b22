"""Agents that report capacity for work and take none. Pure: time is an argument.

An agent's places are watched: its lanes, their suspect queues, its own queue.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from maniple.timings import Bounds
from maniple_registry.domain.agent_record import (
    FINAL,
    AgentRecord,
    Decision,
    Instant,
    LaneView,
    StalledConsumer,
)
from maniple_registry.domain.mass_silence import starves_at_large
from maniple_registry.domain.transition_events import move
from maniple_registry.domain.transitions import Trigger
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.messages import Reconnect

Views = Mapping[str, LaneView]


def untaken(record: AgentRecord, views: Views) -> list[str]:
    """Return the places where it should have taken something, or that have no consumer.

    Except those of which it reports itself that it does not consume: it keeps trying, and only the
    queue can help.
    """
    lanes = record.open_lanes()
    if not lanes:
        return []
    free, unconsumed = record.has_free_slots, frozenset(record.heartbeat.unconsumed)
    return [
        place
        for place, lane in record.places.items()
        if place not in unconsumed
        and (view := views.get(place)) is not None
        and (view.consumers == 0 or (free and view.waiting))
        and (lane in lanes or not lane)
    ]


def look(
    record: AgentRecord, views: Views, now: Instant, bounds: Bounds, *, spared: bool = False
) -> Decision:
    """Apply a look at places (those inspected); agents in `spared` are not evicted now."""
    if record.state in FINAL:
        return Decision(record)
    places = untaken(record, views)
    if not places or now.seconds < record.begun + bounds.settling:
        return Decision(record if record.starving is None else replace(record, starving=None))
    starving = _goes_on(record, places, views)
    if starving is None:
        # First where nobody consumes: what is taken elsewhere would end the other doubt each time.
        place = min(places, key=lambda place: views[place].consumers > 0)
        unconsumed = views[place].consumers == 0
        delivered = record.heartbeat.last_delivery_at
        starving = StalledConsumer(place, now.seconds, delivered, unconsumed=unconsumed)
        return Decision(replace(record, starving=starving))
    record = replace(record, starving=starving)
    # A burst can fill a lane between two heartbeats: only one that came since counts as evidence.
    if record.heard <= starving.since or now.seconds < starving.since + bounds.starving:
        return Decision(record)
    if views[starving.place].blank and not _insists(record, starving, now, bounds):
        return _ask(record, starving, now)
    return _starve(record, starving, now, bounds, spared=spared)


def _insists(record: AgentRecord, starving: StalledConsumer, now: Instant, bounds: Bounds) -> bool:
    """Tell whether it reports to consume there after it was asked to do so anew."""
    asked = starving.asked_at
    return (
        asked is not None
        and record.heard > asked
        and now.seconds >= starving.since + bounds.reconnect
    )


def _ask(record: AgentRecord, starving: StalledConsumer, now: Instant) -> Decision:
    """Have it consume anew where the broker shows nothing: a queue without an answer looks so.

    If the queue is at fault, the agent gets no answer either, and no longer reports to consume
    there.
    """
    if starving.asked_at is not None:
        return Decision(record)
    asked = replace(record, starving=replace(starving, asked_at=now.seconds))
    return Decision(asked, commands=(Reconnect(places=(starving.place,)),))


def _goes_on(record: AgentRecord, places: list[str], views: Views) -> StalledConsumer | None:
    starving = record.starving
    if starving is None or starving.place not in places:
        return None
    unconsumed = views[starving.place].consumers == 0
    if not unconsumed and record.heartbeat.last_delivery_at != starving.delivered_at:
        return None
    return replace(starving, unconsumed=unconsumed)


def starves_still(record: AgentRecord, starving: StalledConsumer) -> bool:
    """Tell whether a heartbeat leaves the doubt; without a consumer only a look ends it."""
    if starving.place in record.heartbeat.unconsumed:
        return False  # it knows, and it is the queue's fault
    if starving.unconsumed:
        return True  # what it took came from elsewhere
    unchanged = record.heartbeat.last_delivery_at == starving.delivered_at
    return unchanged and record.has_free_slots and starving.place in record.open_lanes()


def _starve(
    record: AgentRecord, starving: StalledConsumer, now: Instant, bounds: Bounds, *, spared: bool
) -> Decision:
    elapsed = now.seconds - starving.since
    tell = elapsed >= bounds.reconnect and not starving.told
    starving = replace(starving, doubted=True, told=starving.told or tell)
    record = replace(record, starving=starving)
    reason = f"{Trigger.STARVES} ({starving.where})"
    record, events = move(record, Trigger.STARVES, now, reason)
    failed: tuple[AgentRecord, ...] = ()
    if elapsed >= bounds.hopeless and not spared:
        reason = f"{Trigger.HOPELESS} ({starving.where})"
        record, told = move(record, Trigger.HOPELESS, now, reason)
        events, failed = events + told, (record,)
    return Decision(record, events, (Reconnect(),) if tell else (), failed)


class Crowd:
    """What the other agents at the same places show: whether the agent is at fault, or the queue.

    RabbitMQ answers (0, 0) for a quorum queue whose leader does not answer it within 250 ms.
    """

    def __init__(
        self, records: Iterable[AgentRecord], views: Views, now: Instant, bounds: Bounds
    ) -> None:
        self._views = views
        self._now = now.seconds
        self._bounds = bounds
        self._living = [record for record in records if record.state not in FINAL]

    @cached_property
    def _at_large(self) -> bool:
        doubted = sum(r.starving is not None and r.starving.doubted for r in self._living)
        return starves_at_large(doubted, len(self._living))

    @cached_property
    def _fed(self) -> Mapping[str, set[AgentId]]:
        """Return, for each blank place, the agents that took something lately."""
        found: defaultdict[str, set[AgentId]] = defaultdict(set)
        blank = {place for place, view in self._views.items() if view.blank}
        for record in self._living if blank else ():
            if record.fed >= self._now - self._bounds.hopeless:
                for place in blank & record.places.keys():
                    found[place].add(record.agent)
        return found

    @cached_property
    def _takers(self) -> Mapping[str, tuple[int, list[tuple[float, AgentId]]]]:
        """Return for each place how many should take something, and the last two that did."""
        found: defaultdict[str, list[tuple[float, AgentId]]] = defaultdict(list)
        for record in self._living:
            if self._now >= record.begun + self._bounds.settling:
                for place in untaken(record, self._views):
                    found[place].append((record.fed, record.agent))
        return {place: (len(all_), heapq.nlargest(2, all_)) for place, all_ in found.items()}

    def views_for(self, record: AgentRecord) -> Views:
        """Return the views, without blank ones where others seem to have taken something."""
        own = {record.agent}
        ignored = {p for p in self._fed if p in record.places and self._fed[p] - own}
        if not ignored:
            return self._views
        return {p: self._views[p] for p in record.places if p in self._views and p not in ignored}

    def spares(self, record: AgentRecord) -> bool:
        """Tell whether an eviction is spared: all agents at its place, or very many, starve."""
        starving = record.starving
        if starving is None or self._now < starving.since + self._bounds.hopeless:
            return False
        number, last = self._takers.get(starving.place, (0, []))
        if number < 2:  # noqa: PLR2004 - itself and another
            return self._at_large and number > 0
        if self._at_large or self._views[starving.place].consumers == 0:
            return True
        fed = next(at for at, agent in last if agent != record.agent)
        return fed < starving.since
