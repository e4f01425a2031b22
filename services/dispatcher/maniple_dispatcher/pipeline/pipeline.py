"""What the policies make of a task between its admission and its lane.

In this order: its variant, its rate limit, room in its bulkhead, the breaker of its lane, its
mirror. Each limit is asked of whoever owns it (`domain/fleet.py`), which takes no time if that is
this process. What is refused gets its fallback, or ends with a code and `retry_after`; what comes
back from a wait has been admitted, and never ends for that: it waits again. What nobody decided is
no refusal: such a task gets neither an end nor what is meant for refused ones, it waits and asks
again.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from msgspec import Raw
from msgspec.structs import replace

from maniple.codec import encode
from maniple.errors import BrokerUnavailable, ErrorCode
from maniple.messages import ACCEPTED_TYPE, MAX_TTL, Envelope, Failure, Waiting, without_room
from maniple.service.metric_names import POLICY_DECISIONS
from maniple.service.policies import (
    CircuitBreakerPolicy,
    FallbackPolicy,
    FallbackSpec,
    Policy,
    Resolved,
)
from maniple.service.publish.batch_publisher import ResultPublisher
from maniple.service.publish.confirm import as_ours
from maniple.service.settlement import Settlement
from maniple.service.telemetry import Metrics
from maniple.topology import DELAY_TIERS, lane_name
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.redelivery import Redelivery
from maniple_dispatcher.ingress.submission import PolicyResolver
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_client import Limit, Then
from maniple_dispatcher.limits.lease_owner import probes_of
from maniple_dispatcher.pipeline.pipeline_task import (
    LimitRefusal,
    PipelineTask,
    rate_limit_passed,
    rate_limit_pending,
)
from maniple_dispatcher.pipeline.selection import bulkhead_of, mirrored, rate_limit_of, routed
from maniple_dispatcher.pipeline.verdicts import LONGEST_WAIT, acceptance, refused, substituted
from maniple_dispatcher.result_cache import ResultCache

_WAITING = {
    ErrorCode.RATE_LIMITED: Waiting.LIMITED,
    ErrorCode.OVERLOADED: Waiting.FULL_BULKHEAD,
    ErrorCode.CIRCUIT_OPEN: Waiting.CIRCUIT_OPEN,
}

_log = logging.getLogger(__name__)


class Pipeline:
    """Lets tasks through to `lanes`, as the policies say."""

    def __init__(  # noqa: PLR0913 - where all that decides about a task meets
        self,
        lanes: LanePublisher,
        fleet: Coordinator,
        policies: PolicyResolver,
        results: ResultPublisher,
        *,
        good: ResultCache,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """Ask `fleet` for permits; reply through `results`, with what is `good` if need be."""
        self._lanes = lanes
        self._fleet = fleet
        self._policies = policies
        self._results = results
        self._good = good
        self._metrics = metrics
        self._clock = clock

    def admit(
        self,
        envelope: Envelope,
        resolved: Resolved,
        source: Settlement,
        before: Redelivery = Redelivery.UNKNOWN,
    ) -> None:
        """Bring a new task on its way, unless it is over already.

        What may have been admitted `before` is never refused: it passes or waits.
        """
        if self._lanes.ends(envelope, source, self._clock()):
            return
        if before is not Redelivery.UNKNOWN:
            self._admit_again(envelope, resolved, source, before)
        elif resolved.guarded or source.expires:
            self._begin(PipelineTask(envelope, resolved, source, submitted=True))
        else:
            self._lanes.send_task(envelope, source)

    def again(self, envelope: Envelope, source: Settlement) -> None:
        """Bring a task on its way that has waited: its bulkhead and its breaker may be shut now."""
        resolved = self._policies.resolve(
            envelope.capability, envelope.tenant, envelope.labels, envelope.id
        )
        going = PipelineTask(envelope, resolved, source, returned=True)
        if envelope.owing:
            self._limit(going)
        elif resolved.guarded and envelope.mirror_of is None:
            self._take_room(going)
        else:
            self._lanes.send_task(envelope, source)

    def _admit_again(
        self, envelope: Envelope, resolved: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        """Bring a task on its way that may be on it: no policy ends it, nor want of room.

        One that a dispatcher had is charged nothing, for it may have been. One of which only its
        sender says so is: or it would say so to pass.
        """
        again = before is not Redelivery.SAID  # or its sender could have us look for it
        owes = before in {Redelivery.SAID, Redelivery.BOTH} and resolved.rate_limit is not None
        envelope = replace(envelope, waits=max(1, envelope.waits), owing=owes, again=again)
        if resolved.route is not None:
            envelope = routed(resolved.route, envelope)
        going = PipelineTask(envelope, resolved, source, returned=True, submitted=True)
        if owes:
            self._limit(going)
        elif resolved.guarded or source.expires:
            self._take_room(going)
        else:
            self._lanes.send_task(envelope, source)

    # --- step by step --------------------------------------------------------------------

    def _begin(self, going: PipelineTask) -> None:
        route = going.resolved.route
        if route is not None:
            going = replace(going, envelope=routed(route, going.envelope))
        self._limit(going)

    def _limit(self, going: PipelineTask) -> None:
        policy = going.resolved.rate_limit
        if policy is None:
            self._pass_limit(going)
            return
        limit = rate_limit_of(policy, going.envelope)
        self._ask(limit, going, partial(self._limited, going))

    def _limited(self, going: PipelineTask, passes: bool | None, seconds: float) -> None:  # noqa: FBT001 - `Then`
        policy = going.resolved.rate_limit
        if policy is None or (passes and seconds < DELAY_TIERS[0]):
            self._pass_limit(going)
        elif passes is None:
            self._wait_undecided(rate_limit_pending(going), policy)
        elif passes:
            self._count(policy, "shaped")
            self._wait_for(rate_limit_passed(going), seconds, Waiting.LIMITED)
        elif policy.spec.over == "degrade":
            self._count(policy, "degraded")
            lane = lane_name(going.envelope.capability, policy.spec.variant)
            self._pass_limit(replace(going, envelope=replace(going.envelope, lane=lane)))
        else:
            message = f"more than {policy.spec.limit:g} tasks in {policy.spec.period:g} s"
            self._refuse(going, LimitRefusal(ErrorCode.RATE_LIMITED, policy, message, seconds))

    def _pass_limit(self, going: PipelineTask) -> None:
        self._take_room(rate_limit_passed(going))

    def _take_room(self, going: PipelineTask) -> None:
        policy = going.resolved.bulkhead
        if policy is None:
            self._look_at_breaker(going)
            return
        limit = bulkhead_of(policy, going.envelope)
        self._ask(limit, going, partial(self._has_room, going, limit))

    def _has_room(
        self,
        going: PipelineTask,
        limit: Limit,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        policy = going.resolved.bulkhead
        if passes or policy is None:
            envelope = replace(going.envelope, bulkhead=limit.key)
            self._go_on_with_room(replace(going, envelope=envelope, room=limit))
            return
        if passes is None:
            self._wait_undecided(going, policy)
            return
        message = f"{policy.spec.max_in_flight} tasks are in flight"
        refusal = LimitRefusal(ErrorCode.OVERLOADED, policy, message, seconds)
        if policy.spec.over == "wait":
            self._hold(going, refusal)
        else:
            self._refuse(going, refusal)

    def _go_on_with_room(self, going: PipelineTask) -> None:
        try:
            self._look_at_breaker(going)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task with room cannot be brought on its way")
            self._hold_failed(going)

    def _look_at_breaker(self, going: PipelineTask) -> None:
        policy = going.resolved.circuit_breaker
        if policy is None:
            self._let_through(going)
            return
        state, rest = self._breaker(going, policy)
        if state is BreakerState.CLOSED:
            self._let_through(going)
        elif rest > 0:
            self._find_open(going, rest)
        else:  # half open, or it should be by now, and its owner knows
            probes = probes_of(going.envelope.lane)
            self._ask(probes, going, partial(self._probes, going))

    def _breaker(
        self, going: PipelineTask, policy: CircuitBreakerPolicy
    ) -> tuple[BreakerState, float]:
        """Return how the lane's breaker is, and for how long it is open yet."""
        state, since = self._fleet.owned.breaker(going.envelope.lane)
        rest = since + policy.spec.open_for - monotonic()
        return state, rest if state is BreakerState.OPEN else 0.0

    def _probes(self, going: PipelineTask, passes: bool | None, seconds: float) -> None:  # noqa: FBT001 - `Then`
        policy = going.resolved.circuit_breaker
        if policy is None:
            self._let_through(going)
        elif passes is None:
            self._wait_undecided(going, policy)
        else:
            # It may have opened again since that was granted.
            _, rest = self._breaker(going, policy)
            if passes and rest <= 0:
                self._let_through(going)
            else:
                self._find_open(going, max(seconds, rest))

    def _find_open(self, going: PipelineTask, seconds: float) -> None:
        policy = going.resolved.circuit_breaker
        if policy is None:
            self._let_through(going)
            return
        seconds = max(DELAY_TIERS[0], seconds)
        message = f"the circuit breaker of {going.envelope.lane} is open"
        self._refuse(going, LimitRefusal(ErrorCode.CIRCUIT_OPEN, policy, message, seconds))

    def _let_through(self, going: PipelineTask) -> None:
        self._leave(going, partial(self._send, going))

    def _send(self, going: PipelineTask) -> None:
        envelope = going.envelope
        mirror = going.resolved.mirror
        if mirror is not None and not going.returned:
            copy = mirrored(mirror, envelope, self._clock())
            if copy is not None:
                versions = {**envelope.policies, mirror.key: mirror.version}
                envelope = replace(envelope, policies=versions)
                self._lanes.mirror(copy)
        self._lanes.send_task(envelope, going.source)

    def _leave(self, going: PipelineTask, go: Callable[[], None]) -> None:
        """Let a task `go` that is not ended here, once that is recorded if somebody may ask.

        A dispatcher to which it is delivered again then knows whether it was charged, and one that
        finds that it has expired, whether it may run: what has no record never left, and is as new.
        So what is not ours any more must not leave: another may have ended it by now.
        """
        asked = going.fell or going.resolved.rate_limit is not None or going.source.expires
        if not (going.submitted and asked):
            go()
        elif going.source.alive:
            self._lanes.admitted(going.envelope, going.source, partial(self._left, going, go))
        else:
            self._drop(going)

    def _drop(self, going: PipelineTask) -> None:
        self._give_back(going)
        going.source.settle(BrokerUnavailable("what it came in is delivered again"))

    def _left(self, going: PipelineTask, go: Callable[[], None]) -> None:
        try:
            if going.source.alive:
                go()
            else:
                self._drop(going)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task cannot be brought on its way")
            self._hold_failed(replace(going, submitted=False))

    # --- asking --------------------------------------------------------------------------

    def _ask(self, limit: Limit, going: PipelineTask, then: Then) -> None:
        """Ask for a permit; `then` is told, and whatever it fails over costs this task only."""
        self._fleet.ask_permit(limit, partial(self._told, limit, going, then), monotonic())

    def _told(
        self,
        limit: Limit,
        going: PipelineTask,
        then: Then,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        try:
            then(passes, seconds)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task cannot be brought on its way")
            self._hold_failed(going if limit.terms is None else rate_limit_pending(going))

    def _hold_failed(self, going: PipelineTask) -> None:
        """Let a task wait over which this dispatcher fails: it may be another that takes it then.

        One that cannot wait either is refused by its source, and ends as the broker's dead letter.
        """
        try:
            going = self._give_back(going)
            self._wait(going, Waiting.UNDECIDED)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is settled
            _log.exception("nor can it wait")
            going.source.settle(as_ours(error))

    # --- undecided -----------------------------------------------------------------------

    def _wait_undecided(self, going: PipelineTask, policy: Policy) -> None:
        """Let a task ask again later that nobody has refused."""
        going = self._give_back(going)
        self._count(policy, "undecided")
        self._wait(going, Waiting.UNDECIDED)

    def _wait(self, going: PipelineTask, why: Waiting) -> None:
        self._leave(going, partial(self._lanes.hold, going.envelope, going.source, why))

    # --- refused -------------------------------------------------------------------------

    def _refuse(self, going: PipelineTask, refusal: LimitRefusal) -> None:
        going = self._give_back(going)
        fallback = going.resolved.fallback
        falls = fallback is not None and refusal.code in fallback.spec.on and not going.fell
        if going.returned:
            self._hold(going, refusal)
        elif fallback is not None and falls:
            self._fall_back(going, refusal, fallback)
        else:
            self._end(going, refusal)

    def _end(self, going: PipelineTask, refusal: LimitRefusal) -> None:
        self._count(refusal.policy, "refused")
        failure = Failure(
            code=refusal.code,
            message=refusal.message,
            retry_after=round(max(refusal.seconds, 0.001), 3),
            detail={"policy": refusal.policy.key},
        )
        result = refused(going.envelope, self._clock(), failure)
        self._lanes.end_task(result, going.envelope, going.source)

    def _hold(self, going: PipelineTask, refusal: LimitRefusal) -> None:
        """Let a task wait that is not to end for being refused.

        Of many that ask for one token the next gets it: so they ask ever less often, and none
        before there may be one.
        """
        self._count(refusal.policy, "held")
        if going.envelope.owing and refusal.seconds > LONGEST_WAIT:
            self._wait_for(going, refusal.seconds, _WAITING[refusal.code])
        else:
            self._wait(going, _WAITING[refusal.code])

    def _wait_for(self, going: PipelineTask, seconds: float, why: Waiting) -> None:
        due = self._due(going, seconds)
        self._leave(going, partial(self._lanes.wait_on, due, going.source, why))

    def _due(self, going: PipelineTask, seconds: float) -> Envelope:
        seconds = min(max(seconds, DELAY_TIERS[0]), MAX_TTL)  # it expires before that
        due = self._clock() + timedelta(seconds=seconds)
        return replace(going.envelope, not_before=due)

    def _give_back(self, going: PipelineTask) -> PipelineTask:
        """Give back room that a task got, and return it without."""
        if going.room is None:
            return going
        self._fleet.return_permit(going.room, monotonic())
        return replace(going, envelope=without_room(going.envelope), room=None)

    def _fall_back(
        self, going: PipelineTask, refusal: LimitRefusal, fallback: FallbackPolicy
    ) -> None:
        output = self._output(fallback.spec, going.envelope)
        if fallback.spec.last_good and output is None:
            self._end(going, refusal)
            return
        self._count(fallback, refusal.code.value)
        versions = {**going.envelope.policies, fallback.key: fallback.version}
        envelope = replace(going.envelope, policies=versions)
        going = replace(going, envelope=envelope)
        if fallback.spec.capability is not None:
            self._substitute(going, fallback.spec.capability)
        elif fallback.spec.accept:
            self._accept(going, refusal)
        else:
            result = substituted(envelope, self._clock(), output)
            self._lanes.end_task(result, envelope, going.source)

    def _output(self, spec: FallbackSpec, envelope: Envelope) -> Raw | None:
        if spec.last_good:
            oldest = self._clock() - timedelta(seconds=spec.max_age)
            return self._good.find(envelope, oldest)
        return Raw(encode(spec.value))

    def _substitute(self, going: PipelineTask, capability: str) -> None:
        """Run another capability; the task keeps its id, its sender and its deadline."""
        envelope = going.envelope
        resolved = self._policies.resolve(capability, envelope.tenant, envelope.labels, envelope.id)
        envelope = replace(
            envelope,
            capability=capability,
            lane=capability,
            max_attempts=resolved.attempts,
            timeout=resolved.timeout,
            retry=resolved.retry,
            policies={**envelope.policies, **resolved.versions},
        )
        self._begin(PipelineTask(envelope, resolved, going.source, submitted=True, fell=True))

    def _accept(self, going: PipelineTask, refusal: LimitRefusal) -> None:
        """Answer that the task is accepted, and let it ask again when there may be room."""
        if refusal.code is ErrorCode.RATE_LIMITED:
            going = rate_limit_pending(going)
        self._leave(going, partial(self._promise, going, refusal))

    def _promise(self, going: PipelineTask, refusal: LimitRefusal) -> None:
        envelope = going.envelope
        if envelope.reply_to is not None:
            said = encode(acceptance(envelope))
            self._results.announce(said, ACCEPTED_TYPE, envelope.reply_to, envelope.correlation_id)
        due, why = self._due(going, refusal.seconds), _WAITING[refusal.code]
        self._lanes.wait_on(due, going.source, why, insist=True)

    def _count(self, policy: Policy, decision: str) -> None:
        self._metrics.counter(POLICY_DECISIONS, policy.kind, policy.name, decision).inc()
