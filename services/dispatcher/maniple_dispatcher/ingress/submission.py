"""New submissions: what is admitted goes to its lane, what is not is told so."""

import logging
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain

from maniple.amqp import TASK_BYTES, Delivery, Length, length_of
from maniple.codec import decode_submission, encode, is_list
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import MAX_TASKS, Envelope, Result, Task
from maniple.topology import REPLY_PREFIX
from maniple.traceparent import begun_trace, trace_of_id
from maniple_dispatcher.ingress.admission import (
    admit,
    capability_of,
    identity,
    is_misshapen,
    trace_of,
)
from maniple_dispatcher.ingress.arrival import (
    Arrival,
    RawArrival,
    Redelivery,
    bare_arrival,
    check_arrival,
    raw_arrival,
)
from maniple_dispatcher.ingress.long_messages import LongMessages, Steps
from maniple_dispatcher.ingress.record_lookup import Then
from maniple_dispatcher.ingress.refusal import (
    MOST,
    Refusal,
    Refused,
    claimed_by,
    many,
    refusal_of,
    refusals_of,
    whole,
)
from maniple_dispatcher.ingress.refusal_sender import PARTS, RefusalSender
from maniple_dispatcher.policy_resolver import PolicyResolver
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Resolved
from maniple_runtime.metric_names import SUBMISSIONS_READ, TASKS_SUBMITTED
from maniple_runtime.publish.confirm import Settlement, as_ours
from maniple_runtime.records import Record, TaskKey
from maniple_runtime.task_traces import dispatching
from maniple_runtime.telemetry import Metrics

_HAD = frozenset({Redelivery.DELIVERED, Redelivery.BOTH})
_log = logging.getLogger(__name__)

Onward = Callable[[Envelope, Resolved, Settlement, Redelivery], None]
_Admitted = tuple[Envelope, Resolved, int | None]


@dataclass(slots=True)
class _Sorted:
    """What of a message is admitted, and what is not."""

    arrival: Arrival
    admitted: list[_Admitted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class SubmissionConsumer:
    """Admits what outsiders publish. Nothing in a message can stop it or get lost in it."""

    def __init__(  # noqa: PLR0913 - what decides about a task, and where it goes
        self,
        onward: Onward,
        refusals: RefusalSender,
        policies: PolicyResolver,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        traces: DispatchTracing,
        long: LongMessages,
        again: Onward | None = None,
        check_address: Callable[[str], None] = lambda _: None,
        look: Callable[[TaskKey, Then], None] = lambda _, then: then(None),
    ) -> None:
        """Send what is admitted `onward`, what is not to `refusals`; `long` ones in slices.

        What a dispatcher had before goes by `again`, if that is given. `check_address` raises
        `InvalidMessage` for a `reply_to` that would cost the connection. `look` tells what the
        records have of a refusal.
        """
        self._long = long
        self._look = look
        self._check_address = check_address
        self._traces = traces
        self._begin_trace = traces.begun if traces.on else _unsampled_trace
        self._onward = onward
        self._again = again
        self._refusals = refusals
        self._policies = policies
        self._read = metrics.counter(SUBMISSIONS_READ)
        self._submitted = metrics.counter(TASKS_SUBMITTED)
        self._clock = clock

    def on_submission(self, delivery: Delivery) -> None:
        """Admit or refuse what is in one message from `maniple.submit`."""
        self._read.inc()
        found: list[_Sorted] = []
        steps = chain(self._sort(delivery, found), self._bring(delivery, found))
        self._long.work_through(delivery, steps)

    def _sort(self, delivery: Delivery, found: list[_Sorted]) -> Steps:
        """Find what goes on of a message; nothing does of one that is refused as a whole."""
        now = self._clock()
        raw = raw_arrival(delivery)
        try:
            arrival = check_arrival(raw, now)
            # What may be running is not refused for what was not known when it was admitted.
            is_new, reply_to = arrival.before is Redelivery.UNKNOWN, arrival.reply_to
            if is_new and reply_to is not None and not reply_to.startswith(REPLY_PREFIX):
                self._check_address(reply_to)
            most_bad = MOST if is_new else MAX_TASKS
            members = decode_submission(delivery.body, most_bad)
        except InvalidMessage as error:
            self._refuse_whole(error, raw, delivery, now)
            return
        is_array = is_list(delivery.body)
        one = yield from self._sorted(members, arrival, is_array=is_array, most_bad=most_bad)
        bad = [refused for refused in one.refused if refused.misshapen]
        if len(bad) > MOST:
            self._take_mixed(delivery, one, bad)
        else:
            found.append(one)

    def _take_mixed(self, delivery: Delivery, one: _Sorted, bad: list[Refused]) -> None:
        """Refuse an array with more than `MOST` misshapen members, or only those.

        One that is new is refused as a whole, once that is on record. Of one that a dispatcher had,
        the records say whether it was: then it stays so. If it was not, nobody was told that it is,
        and its good members may have been admitted, as by a release that finds less misshapen: they
        go on, each of them looked up as any task. So they do in what only its sender says is
        repeated, for which nothing is looked up.
        """
        body, arrival, before = delivery.body, one.arrival, one.arrival.before
        apart = [refused for refused in one.refused if not refused.misshapen]
        all_of_it = many(bad, arrival, others=False, body=body)
        refusal = refusal_of(all_of_it, arrival, new_id)
        refuse = partial(self._refuse_array, all_of_it.error, refusal, arrival, delivery)
        if before is Redelivery.UNKNOWN or not (one.admitted or apart):
            refuse(known=False)
            return
        one.refused = [*apart, many(bad, arrival, others=True, body=body)]

        def go_on() -> None:
            self._long.work_through(delivery, self._bring(delivery, [one]))

        def found(record: Record | None) -> None:
            try:
                # Others write messages under this id, too, of which that is not the refusal.
                if isinstance(record, Result) and record.error == refusal.record.error:
                    refuse(known=True)
                else:
                    go_on()
            except Exception as error:  # noqa: BLE001 - it ends as the broker's dead letter
                Settlement(delivery, 1).settle(as_ours(error))

        if before is Redelivery.SAID or arrival.message_id is None:
            go_on()
        else:
            self._look(TaskKey(refusal.record.tenant, refusal.record.id), found)

    def _refuse_array(
        self,
        error: InvalidMessage,
        refusal: Refusal,
        arrival: Arrival,
        delivery: Delivery,
        *,
        known: bool,
    ) -> None:
        self._submitted.inc()
        delivery.lighten(len(delivery.body) + TASK_BYTES)
        source = Settlement(delivery, PARTS)
        self._refusals.refuse_array(error, refusal, arrival, delivery.body, source, known=known)

    def _bring(self, delivery: Delivery, found: list[_Sorted]) -> Steps:
        """Send what is admitted onward, and refuse the others one by one."""
        for one in found:
            arrival = one.arrival
            source = self._source(delivery, one)
            if one.refused:
                alive = [(envelope.tenant, envelope.id) for envelope, _, _ in one.admitted]
                refusals = refusals_of(one.refused, alive, arrival, new_id)
                yield from self._refusals.refuse_members(one.refused, refusals, arrival, source)
            onward = (arrival.before in _HAD and self._again) or self._onward
            for envelope, resolved, position in one.admitted:
                yield
                source.expect(1)
                try:
                    onward(envelope, resolved, source, arrival.before)
                except Exception as error:  # noqa: BLE001 - one of them must not cost the others
                    source.expect(PARTS - 1)
                    self._fail(error, envelope, arrival, position, source)
            source.settle()

    def _source(self, delivery: Delivery, one: _Sorted) -> Settlement:
        self._submitted.inc(len(one.admitted) + len(one.refused))
        if not one.admitted:
            delivery.lighten(len(delivery.body) + len(one.refused) * TASK_BYTES)
        before = one.arrival.before
        source = Settlement(
            delivery,
            1,  # which is settled after the last
            # What only its sender says is repeated may not end for want of room, nor take more.
            patient=before is Redelivery.SAID,
            expires=delivery.properties.expiration is not None,
        )
        # What is looked up first is not at the broker while it waits.
        if length_of(delivery.weight) is not Length.SHORT and before not in _HAD:
            self._long.watch_source(source)
        return source

    def _sorted(
        self,
        members: list[Task | InvalidMessage],
        arrival: Arrival,
        *,
        is_array: bool,
        most_bad: int,
    ) -> Generator[None, None, _Sorted]:
        """Tell what is admitted from what is not, until more than `most_bad` are misshapen.

        Which are, their bytes alone say: no policy and no clock, so it is the same at any time.
        """
        found = _Sorted(arrival)
        seen: set[tuple[str, str]] = set()
        bad = 0
        for number, member in enumerate(members):
            if bad > most_bad:
                break
            yield
            position = number if is_array else None
            if isinstance(member, InvalidMessage):
                who = claimed_by(member, arrival, position)
                refused = Refused(member, *who, position, member.body, misshapen=True)
                found.refused.append(refused)
                bad += 1
                continue
            task_id = identity(member.id, arrival, position, new_id)
            try:
                _check_first(member.tenant, task_id, seen)
                envelope, resolved = self.admitted(member, arrival, task_id)
                seen.add((member.tenant, task_id))
                found.admitted.append((envelope, resolved, position))
            except Exception as error:  # noqa: BLE001 - one of them must not cost the others
                key = member.tenant, task_id
                misshapen = key in seen or is_misshapen(member, arrival.routing_key)
                if misshapen:
                    bad += 1
                else:
                    seen.add(key)
                who, body = claimed_by(member, arrival, position), encode(member)
                refused = Refused(_reason(error), *who, position, body, misshapen=misshapen)
                found.refused.append(refused)
        return found

    def admitted(self, task: Task, arrival: Arrival, task_id: str) -> tuple[Envelope, Resolved]:
        """Return a task that is admitted, with what the policies say. Raises `InvalidMessage`."""
        capability = capability_of(task, arrival.routing_key)
        resolved = self._policies.resolve(capability, task.tenant, task.labels, task_id)
        begin = partial(self._begin_trace, task_id)
        envelope = admit(
            task,
            arrival,
            task_id=task_id,
            capability=capability,
            decided=resolved,
            traceparent=trace_of(task, arrival, begin, self._traces.honoured),
        )
        if self._traces.on and self._traces.has(envelope):
            envelope = dispatching(envelope)
        return envelope, resolved

    def _fail(
        self,
        error: Exception,
        envelope: Envelope,
        arrival: Arrival,
        position: int | None,
        source: Settlement,
    ) -> None:
        """Refuse a task over which this dispatcher fails."""
        reason, body = _reason(error), encode(envelope)
        who = envelope.id, envelope.tenant, envelope.capability
        refusal = refusal_of(Refused(reason, *who, position), arrival, new_id)
        self._refusals.refuse(reason, refusal, arrival, body, source, offered=False)

    def _refuse_whole(
        self, error: InvalidMessage, raw: RawArrival, delivery: Delivery, now: datetime
    ) -> None:
        arrival = bare_arrival(raw, now)
        refusal = refusal_of(whole(error, arrival), arrival, new_id)
        source = Settlement(delivery, PARTS)
        self._refusals.refuse(error, refusal, arrival, delivery.body, source)


def _unsampled_trace(task_id: str) -> str:
    trace = trace_of_id(task_id, sampled=False)
    return trace or begun_trace(random.getrandbits(128), sampled=False)


def _check_first(tenant: str, task_id: str, seen: set[tuple[str, str]]) -> None:
    if (tenant, task_id) in seen:
        raise InvalidMessage(ErrorCode.INVALID_TASK, f"id {task_id!r} stands twice in one array")


def _reason(error: Exception) -> InvalidMessage:
    """Return why a task is refused; what is none of its sender's faults is logged."""
    if isinstance(error, InvalidMessage):
        return error
    _log.error("a submission cannot be dispatched", exc_info=error)
    return InvalidMessage(ErrorCode.UNDECODABLE, f"a dispatcher failed over it: {error!r}")
