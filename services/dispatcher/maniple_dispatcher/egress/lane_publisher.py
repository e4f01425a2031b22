"""The way out of a dispatcher: lanes, agents' own queues, waits, results.

Every task settles its source message when what became of it is confirmed. A lane that refuses or is
missing sends it to wait at once; from one that does not confirm for some seconds while others do, a
copy is sent to wait (`InFlightPublishes`): the task may run twice, but it holds up no other and
is not lost.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from maniple.amqp import Publisher
from maniple.amqp.batching import MAX_ITEMS
from maniple.clock import Clock
from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.identifiers import new_id
from maniple.messages import (
    ACCEPTED_TYPE,
    ADMITTED_TYPE,
    ENVELOPES_TYPE,
    GROUPS_TYPE,
    Envelope,
    Result,
    TaskAdmitted,
    Waiting,
    without_room,
)
from maniple.timings import Queues
from maniple.topology import (
    ACCEPTED_KEY,
    ADMITTED_KEY,
    AGENTS,
    EVENTS,
    LANES,
    RESULTS,
    lane_key,
)
from maniple.traceparent import is_of_id
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.deadlines import HOUR, NEVER
from maniple_dispatcher.egress.delay import DelayPublisher
from maniple_dispatcher.egress.known_lanes import LaneProbes
from maniple_dispatcher.egress.lane_bundles import LaneBundles, Readers
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.egress.mirrors import MIRROR_SECONDS, MirrorPublisher
from maniple_dispatcher.egress.waits import WaitingTasks
from maniple_dispatcher.ingress.admission import acceptance, acceptances, shared_by
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.pipeline.verdicts import (
    SELDOM,
    Cancellations,
    cancelled,
    expired,
)
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.destination_backoff import DestinationBackoff
from maniple_runtime.metric_names import (
    TASKS_ACCEPTED,
    TASKS_REJECTED,
)
from maniple_runtime.publish.batch_options import BatchOptions
from maniple_runtime.publish.batch_publisher import (
    RECORD_PATIENCE,
    BatchPublisher,
    ResultPublisher,
)
from maniple_runtime.publish.confirm import (
    ConfirmCallback,
    InFlightPublish,
    InFlightPublishes,
    Key,
    Settlement,
    Together,
    Turn,
    tell,
    together,
)
from maniple_runtime.telemetry import Metrics

ROUND_HEADER = "maniple-round"


class _Going(Struct, frozen=True):
    """A task on its way."""

    envelope: Envelope
    source: Settlement
    alone: bool
    back: bool = False
    """It was in its lane before."""


class _Withdrawn(ManipleError):
    """It was not sent, because what was sent before it was refused or is not confirmed."""

    def __init__(self, why: Waiting) -> None:
        super().__init__(why.value)
        self.why = why


_Ticket = InFlightPublish[_Going]


class _Try(Struct, frozen=True, eq=False):
    """The `done` of a publish of tasks that go to the same place."""

    tickets: list[_Ticket]
    told: Callable[[_Ticket, ManipleError | None], None]

    def __call__(self, error: ManipleError | None) -> None:
        tell([partial(self.told, ticket) for ticket in self.tickets], error)


class _Accepted(Struct, eq=False):
    """Tasks that are accepted together, the first of them, and what they have in common."""

    first: Envelope
    shared: tuple[Any, ...]
    ids: list[str]
    dones: list[ConfirmCallback]
    traceparents: dict[str, str]


class AcceptedRecords:
    """Records that tasks are in their lanes: together what tasks that came together have in common.

    A dispatcher of an earlier release does not know groups: while there is one, each task has its
    own record.
    """

    def __init__(self, publisher: Publisher, metrics: Metrics, readers: Readers) -> None:
        """Publish through `publisher`, what the `readers` read."""
        options = BatchOptions(insist=True, patience=RECORD_PATIENCE, metrics=metrics)
        self._each = BatchPublisher(publisher, EVENTS, ACCEPTED_TYPE, options)
        self._groups = BatchPublisher(publisher, EVENTS, GROUPS_TYPE, options)
        self._readers = readers
        self._group: _Accepted | None = None
        self._ends = False

    def add_record(self, envelope: Envelope, done: ConfirmCallback) -> None:
        """Record that the lane of a task has it."""
        if not self._readers.records:
            self._each.add_item(ACCEPTED_KEY, encode(acceptance(envelope)), done)
            return
        group, shared = self._group, shared_by(envelope)
        if group is None or group.shared != shared or len(group.ids) >= MAX_ITEMS:
            self._end_group()
            group = self._group = _Accepted(envelope, shared, [], [], {})
            if not self._ends:
                self._ends = True
                asyncio.get_running_loop().call_soon(self._end_turn)
        group.ids.append(envelope.id)
        group.dones.append(done)
        trace = envelope.traceparent
        if trace is not None and not is_of_id(trace, envelope.id):
            group.traceparents[envelope.id] = trace

    def _end_turn(self) -> None:
        self._ends = False
        self._end_group()

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            record = encode(acceptances(group.first, group.ids, group.traceparents))
            self._groups.add_item(ACCEPTED_KEY, record, together(group.dones), len(group.ids))

    async def drain_records(self) -> None:
        """Return when all are confirmed."""
        self._end_group()
        await self._each.drain()
        await self._groups.drain()


class LanePublisher:
    """Sends admitted tasks to their lanes, in bundles; what finds no way waits in the broker."""

    def __init__(  # noqa: PLR0913 - whom it tells, and what decides
        self,
        publisher: Publisher,
        results: ResultPublisher,
        metrics: Metrics,
        clock: Clock,
        *,
        assignment: Assignment,
        traces: DispatchTracing,
        bulkheads: BulkheadCounts,
        times: Queues | None = None,
        deadlines: LaneDeadlines | None = None,
        known: Callable[[], datetime | None] = lambda: None,
        readers: Readers | None = None,
    ) -> None:
        """Publish through `publisher`; `assignment` knows the agents that have queues of their own.

        The `readers` say in which forms it may publish.
        `bulkheads` has the room of what finds no way; `deadlines` hears of what lanes have. What is
        `known` of the cluster's time tells what is over, if `clock` is ahead of it.
        """
        self._known = known
        self._bulkheads = bulkheads
        self._deadlines = deadlines
        self._traces = traces
        self._assignment = assignment
        readers = readers or Readers()
        self._bundles = LaneBundles(publisher, metrics, assignment, self._headers_of, readers)
        self._turn: Turn[tuple[Key, bool], _Ticket] = Turn(self._send, self._most)
        self._rounds: dict[str, str] = {}
        sizes = self._bundles.sizes
        copies = BatchOptions(size_of=sizes.size, timeout=MIRROR_SECONDS, metrics=metrics)
        mirrors = BatchPublisher(publisher, LANES, ENVELOPES_TYPE, copies)
        self._mirrors = MirrorPublisher(mirrors, traces, metrics, self._note)
        self._records = AcceptedRecords(publisher, metrics, readers)
        admissions = BatchOptions(insist=True, metrics=metrics)
        self._admissions = BatchPublisher(publisher, RESULTS, ADMITTED_TYPE, admissions)
        self._results = results
        self._metrics = metrics
        self._accepted_of = metrics.counters(TASKS_ACCEPTED)
        self._clock, self._monotonic = clock.now, clock.monotonic
        self._cancellations = Cancellations()
        self._times = times or Queues()
        self._backoff = DestinationBackoff(self._times)
        self._looks = LaneProbes(deadlines.knows if deadlines is not None else lambda _: True)
        self._in_flight: InFlightPublishes[_Going] = InFlightPublishes(self._times.patience)
        self._cancel_at: dict[Key, float] = {}
        self._delays = DelayPublisher(publisher, metrics, times, clock=clock)
        self._waits = WaitingTasks(
            self._delays, self, metrics, clock, traces=traces, answered=self._in_flight.answered
        )

    def learn_times(self, lane: str, runs: int, mean: float) -> None:
        """Learn the run times of a lane: they decide how many tasks a bundle carries."""
        if self._deadlines is not None:
            self._deadlines.move(lane)
        self._bundles.learn_times(lane, runs, mean)

    def cancel_task(self, tenant: str, task: str) -> None:
        """End a task when it passes here."""
        self._cancellations.add_task(tenant, task, self._clock())

    def ends(
        self, envelope: Envelope, source: Settlement, now: datetime, *, waiting: str = ""
    ) -> bool:
        """End a task that is cancelled or whose time is over; tell whether that was so.

        `waiting` says what it has waited for.
        """
        if self._cancellations.since and self._cancellations.has(envelope.tenant, envelope.id):
            self.end_task(cancelled(envelope, now), envelope, source)
        elif self.is_over(envelope, now):
            self.end_task(expired(envelope, now, waiting=waiting), envelope, source)
        else:
            return False
        return True

    def admitted(self, envelope: Envelope, source: Settlement, then: Callable[[], None]) -> None:
        """Record that a new task goes to a lane or waits, and call `then` when that is confirmed.

        That may take long, and all the while it has its room.
        """
        record = TaskAdmitted(
            id=envelope.id,
            capability=envelope.capability,
            tenant=envelope.tenant,
            owing=envelope.owing,
        )

        def recorded(error: ManipleError | None) -> None:
            if error is None:
                if envelope.bulkhead is not None:
                    self._bulkheads.keeps(envelope)
                then()
            else:
                self._bulkheads.turned_away(envelope, no_lane=False)
                source.settle(error)

        encoded = encode(record)
        if envelope.bulkhead is not None:
            self._bulkheads.goes(envelope)
        self._admissions.add_item(ADMITTED_KEY, encoded, recorded)

    def is_over(self, envelope: Envelope, now: datetime) -> bool:
        """Tell whether a task's time is over."""
        return envelope.deadline <= now and envelope.deadline <= (self._known() or now)

    def send_task(self, envelope: Envelope, source: Settlement, *, alone: bool = False) -> None:
        """Bring one task on its way; `alone` keeps it out of bundles."""
        if envelope.bulkhead is not None:
            self._bulkheads.goes(envelope)
        try:
            agent = None if envelope.affinity is None else self._assignment.choose(envelope)
            self._try(_Going(envelope, source, alone), agent)
        except Exception:
            self._bulkheads.keeps(envelope)  # whoever sent it gives that back
            raise

    @contextmanager
    def round(self, key: str) -> Iterator[str]:
        """Stamp what goes to a lane's queue meanwhile, and so comes behind what is there now.

        Yields the value of its header `ROUND_HEADER`.
        """
        stamp = self._rounds[key] = new_id()
        try:
            yield stamp
        finally:
            del self._rounds[key]

    def _headers_of(self, key: str) -> dict[str, Any] | None:
        stamp = self._rounds.get(key)
        return None if stamp is None else {ROUND_HEADER: stamp}

    def put_back(self, envelope: Envelope, source: Settlement, *, alone: bool) -> None:
        """Send a task to the lane that it was taken from; `alone` keeps it out of bundles."""
        self._try(_Going(envelope, source, alone, back=True))

    def _refused(self, destination: Key, going: _Going, why: Waiting) -> None:
        if destination[0] == AGENTS.name:
            # What the agent's own queue does not take goes to the lane that all agents read.
            self._try(going)
        else:
            self._turned_away(going, why)

    def _turned_away(self, going: _Going, why: Waiting, *, least: int = 0) -> None:
        """Have a task wait that no queue has: in none it takes room; `least` as in `wait`."""
        envelope = going.envelope
        if going.back:
            envelope = self._bulkheads.back(envelope)
        else:
            no_lane = (
                why is Waiting.NO_AGENT and lane_key(envelope.lane, envelope.lost) == envelope.lane
            )
            envelope = self._bulkheads.turned_away(envelope, no_lane=no_lane)
        self._waits.begin_wait(envelope, going.source, why, least=least)

    def end_task(self, result: Result, envelope: Envelope, source: Settlement) -> None:
        """Publish the terminal result of a task that goes no further, while its source is ours."""
        envelope = self._bulkheads.back(envelope)
        if result.error is not None:
            self._metrics.counter(TASKS_REJECTED, result.error.code.value).inc()
        result, done = self._traces.ended(result, envelope, source.settle)
        self._results.record_first.conclude(
            result, envelope.reply_to, envelope.correlation_id, done, alive=lambda: source.alive
        )

    def wait_on(
        self,
        envelope: Envelope,
        source: Settlement,
        why: Waiting | None = None,
        *,
        insist: bool = False,
    ) -> None:
        """Have a task that is not due yet wait for another round; `why`, if it has not begun to.

        With `insist` it was promised that it is not to end for want of room.
        """
        self._waits.wait_until_due(envelope, source, why, insist=insist)

    def hold(self, envelope: Envelope, source: Settlement, why: Waiting) -> None:
        """Have a task wait that is not to try its lane now."""
        self._waits.begin_wait(envelope, source, why)

    def mirror(self, copy: Envelope) -> None:
        """Send a copy that nobody waits for, and that is dropped where there is no room."""
        self._mirrors.send_copy(copy)

    def redirect_overdue(self, *, taking: bool) -> None:
        """Have wait what has not been confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        self._delays.redirect_overdue(taking=taking)
        self._results.drop_late_replies(taking=taking)
        if not taking:
            self._in_flight.renew(self._monotonic())
            return
        now = self._monotonic()
        overdue = self._in_flight.overdue(now)
        for ticket in overdue:
            going = ticket.item
            self._arrived(going)
            # A queue may have it: it may run, and has its room there; the copy asks for another.
            copy = replace(without_room(going.envelope), again=True)
            self._waits.begin_wait(copy, going.source, Waiting.UNCONFIRMED, insist=True)
        for destination in {ticket.key for ticket in overdue}:
            self._backoff.shut(destination, Waiting.UNCONFIRMED, now)
            self._withdraw(destination, Waiting.UNCONFIRMED)
            self._cancel_at.setdefault(destination, now + self._times.cancel)
        for destination in [
            destination for destination, at in self._cancel_at.items() if at <= now
        ]:
            del self._cancel_at[destination]
            self._bundles.cancel_sent(destination, self._is_given_up)

    async def drain_lanes(self) -> None:
        """Return when everything on its way has been confirmed."""
        await self._admissions.drain()
        for _ in range(2):  # what an agent's own queue refuses goes to a lane
            self._turn.send_all()
            await self._bundles.drain_bundles()
        await self._mirrors.drain_mirrors()
        await self._waits.drain_waits()
        await self._records.drain_records()

    def _try(self, going: _Going, agent: str | None = None) -> None:
        """Publish a task to its lane, or to an agent's own queue, unless that refused just now."""
        envelope, now = going.envelope, self._monotonic()
        lane, destination = envelope.lane, (AGENTS.name, agent or "")
        if agent is None:
            destination = (LANES.name, lane_key(lane, envelope.lost) if envelope.lost else lane)
        if destination in self._backoff.failing:
            why = self._backoff.refusal(destination, now)
            if why is not None:
                self._refused(destination, going, why)
                return
        # What was in its lane before has shown that it is there.
        is_there = going.back or lane in self._looks.there
        if agent is None and not is_there and not self._looks.may_try(lane, now):
            self._turned_away(going, Waiting.NO_AGENT, least=SELDOM)
            return
        ticket = self._in_flight.begin(destination, going, now)
        # What comes back from the lane has been accepted, and is not announced again; it begins
        # anew to wait.
        accepted = encode(replace(envelope, accepted=True, waits=0))
        self._turn.add((destination, going.alone), accepted, ticket)

    def _most(self, place: tuple[Key, bool]) -> int:
        (exchange, key), alone = place
        return self._bundles.publishers[exchange, alone].most(key)

    def _send(self, place: tuple[Key, bool], tasks: Together[_Ticket]) -> None:
        """Publish tasks that go to the same place."""
        (exchange, key), alone = place
        done, count = _Try(tasks.members, self._told), len(tasks.members)
        self._bundles.publishers[exchange, alone].add_item(key, tasks.joined(), done, count)

    def _told(self, ticket: _Ticket, error: ManipleError | None) -> None:
        """Settle or go on with a task, now that it is known what became of its publish."""
        going, is_answer = ticket.item, error is None or isinstance(error, PublishRefused)
        if error is None:
            self._reached(ticket)
        if is_answer:
            self._delays.answered(ticket.since)
        ended = self._in_flight.end if is_answer else self._in_flight.withdraw
        if not ended(ticket):
            return
        if error is None:
            if going.back:
                going.source.settle()
            else:
                self._accepted(going.envelope, going.source)
        else:
            self._not_taken(ticket, error)

    def _not_taken(self, ticket: _Ticket, error: ManipleError) -> None:
        going = ticket.item
        if isinstance(error, _Withdrawn):
            self._refused(ticket.key, going, error.why)
        elif isinstance(error, PublishRefused):
            why = Waiting.NO_AGENT if error.unroutable else Waiting.OVERLOADED
            self._backoff.shut(ticket.key, why, self._monotonic())
            if error.unroutable and ticket.key[0] == LANES.name:
                self._looks.missed(going.envelope.lane)
            self._refused(ticket.key, going, why)
            self._withdraw(ticket.key, why)
        else:
            self._arrived(going)
            going.source.settle(error)

    def _arrived(self, going: _Going) -> None:
        if not going.back:  # what was in its lane before is not counted as on its way there
            self._bulkheads.arrived(going.envelope)

    def _reached(self, ticket: _Ticket) -> None:
        if ticket.key in self._backoff.failing:
            self._backoff.reopen(ticket.key)
        if ticket.key[0] == LANES.name:
            envelope = ticket.item.envelope
            if envelope.lane not in self._looks.there:
                self._looks.found(envelope.lane)
            self._note(envelope)

    def _note(self, envelope: Envelope) -> None:
        known = self._deadlines
        if known is None:
            return
        deadline = envelope.deadline.timestamp()
        hour = known.hours.get(envelope.lane, NEVER)
        if not (hour <= deadline < hour + HOUR and deadline > known.wall + HOUR):
            known.note(envelope.lane, deadline)

    def _is_given_up(self, done: ConfirmCallback) -> bool:
        return isinstance(done, _Try) and all(map(self._in_flight.is_given_up, done.tickets))

    def _withdraw(self, destination: Key, why: Waiting) -> None:
        """Withdraw what waits behind a bundle that found no way: none of it need be tried."""
        for told in self._bundles.withdraw_waiting(destination):
            told(_Withdrawn(why))

    def _accepted(self, envelope: Envelope, source: Settlement) -> None:
        if envelope.bulkhead is not None:
            self._bulkheads.arrived(envelope)
        if self._traces.on:
            self._traces.accepted(envelope)
        if envelope.accepted:
            source.settle()
            return
        self._accepted_of[envelope.capability,].inc()
        self._records.add_record(envelope, source.settle)
