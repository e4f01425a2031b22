"""What the policies make of a task between its admission and its lane.

In this order: its variant, its rate limit, room in its bulkhead, the breaker of its lane, its
mirror. Each limit is asked of whoever owns it (`domain/fleet.py`), which takes no time if that is
this process. What is refused gets its fallback, or ends with a code and `retry_after`; what comes
back from a wait has been admitted, and never ends for that: it waits again. So does a task that
nobody refused: whoever owns its bulkhead or its breaker did not answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from msgspec import Raw, Struct
from msgspec.structs import replace

from maniple.codec import encode
from maniple.errors import ErrorCode
from maniple.messages import ACCEPTED_TYPE, Envelope, Failure, Waiting
from maniple.service.names import POLICY_DECISIONS
from maniple.service.outlets import ResultOutlet
from maniple.service.policies import FallbackPolicy, FallbackSpec, Policy, Resolved
from maniple.service.settlement import Settlement
from maniple.service.telemetry import Metrics
from maniple.topology import DELAY_TIERS, lane_name
from maniple_dispatcher.domain.before import Before
from maniple_dispatcher.domain.breaker import State
from maniple_dispatcher.domain.fleet import Fleet
from maniple_dispatcher.domain.good_results import GoodResults
from maniple_dispatcher.domain.owned import probes_of
from maniple_dispatcher.domain.permits import Limit
from maniple_dispatcher.domain.routing import acceptance, refused, substituted
from maniple_dispatcher.domain.ways import bulkhead_of, mirrored, rate_limit_of, routed
from maniple_dispatcher.lanes import Lanes
from maniple_dispatcher.submissions import Policies

_WAITING = {
    ErrorCode.RATE_LIMITED: Waiting.LIMITED,
    ErrorCode.OVERLOADED: Waiting.FULL_BULKHEAD,
    ErrorCode.CIRCUIT_OPEN: Waiting.CIRCUIT_OPEN,
}


class _Going(Struct, frozen=True):
    """A task on its way through the gate."""

    envelope: Envelope
    resolved: Resolved
    source: Settlement
    returned: bool = False
    """It comes back from a wait: its limits were passed before."""
    fell: bool = False
    """It is here instead of another capability that refused it."""
    room: Limit | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: ErrorCode
    policy: Policy
    message: str
    seconds: float


class Gate:
    """Lets tasks through to `lanes`, as the policies say."""

    def __init__(  # noqa: PLR0913 - where all that decides about a task meets
        self,
        lanes: Lanes,
        fleet: Fleet,
        policies: Policies,
        results: ResultOutlet,
        *,
        good: GoodResults,
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
        before: Before = Before.UNKNOWN,
    ) -> None:
        """Bring a new task on its way, unless it is over already.

        What may have been admitted `before` is never refused: it passes or waits.
        """
        if self._lanes.ends(envelope, source, self._clock()):
            return
        if before is not Before.UNKNOWN:
            self._admit_again(envelope, resolved, source, before)
        elif resolved.guarded:
            self._begin(_Going(envelope, resolved, source))
        else:
            self._lanes.send(envelope, source)

    def again(self, envelope: Envelope, source: Settlement) -> None:
        """Bring a task on its way that has waited: its bulkhead and its breaker may be shut now."""
        resolved = self._policies.resolve(
            envelope.capability, envelope.tenant, envelope.labels, envelope.id
        )
        going = _Going(envelope, resolved, source, returned=True)
        if envelope.owing:
            self._limit(going)
        elif resolved.guarded and envelope.mirror_of is None:
            self._take_room(going)
        else:
            self._lanes.send(envelope, source)

    def _admit_again(
        self, envelope: Envelope, resolved: Resolved, source: Settlement, before: Before
    ) -> None:
        """Bring a task on its way that may be on it: no policy ends it, nor want of room.

        One that a dispatcher had is charged nothing, for it may have been. One of which only its
        sender says so is: or it would say so to pass.
        """
        said = before is Before.SAID and resolved.rate_limit is not None
        envelope = replace(envelope, waits=max(1, envelope.waits), owing=said)
        if resolved.route is not None:
            envelope = routed(resolved.route, envelope)
        going = _Going(envelope, resolved, source, returned=True)
        if said:
            self._limit(going)
        elif resolved.guarded:
            self._take_room(going)
        else:
            self._lanes.send(envelope, source)

    # --- step by step --------------------------------------------------------------------

    def _begin(self, going: _Going) -> None:
        route = going.resolved.route
        if route is not None:
            going = replace(going, envelope=routed(route, going.envelope))
        self._limit(going)

    def _limit(self, going: _Going) -> None:
        policy = going.resolved.rate_limit
        if policy is None:
            self._take_room(going)
            return
        limit = rate_limit_of(policy, going.envelope)
        self._fleet.ask(limit, partial(self._limited, going), monotonic())

    def _limited(self, going: _Going, passes: bool | None, seconds: float) -> None:  # noqa: FBT001 - `Then`
        policy = going.resolved.rate_limit
        if policy is None or (passes and seconds < DELAY_TIERS[0]):
            self._take_room(going)
        elif passes:
            self._count(policy, "shaped")
            self._wait_for(going, seconds, Waiting.LIMITED)
        elif policy.spec.over == "degrade":
            self._count(policy, "degraded")
            lane = lane_name(going.envelope.capability, policy.spec.variant)
            self._take_room(replace(going, envelope=replace(going.envelope, lane=lane)))
        else:
            message = f"more than {policy.spec.limit:g} tasks in {policy.spec.period:g} s"
            self._refuse(going, _Refusal(ErrorCode.RATE_LIMITED, policy, message, seconds))

    def _take_room(self, going: _Going) -> None:
        policy = going.resolved.bulkhead
        if policy is None:
            self._look_at_breaker(going)
            return
        limit = bulkhead_of(policy, going.envelope)
        self._fleet.ask(limit, partial(self._has_room, going, limit), monotonic())

    def _has_room(
        self,
        going: _Going,
        limit: Limit,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        policy = going.resolved.bulkhead
        if passes or policy is None:
            envelope = replace(going.envelope, bulkhead=limit.key)
            self._look_at_breaker(replace(going, envelope=envelope, room=limit))
            return
        message = f"{policy.spec.max_in_flight} tasks are in flight"
        refusal = _Refusal(ErrorCode.OVERLOADED, policy, message, seconds)
        if passes is None or policy.spec.over == "wait":
            self._hold(going, refusal)
        else:
            self._refuse(going, refusal)

    def _look_at_breaker(self, going: _Going) -> None:
        policy = going.resolved.circuit_breaker
        lane = going.envelope.lane
        now = monotonic()
        state, since = self._fleet.owned.breaker(lane)
        if policy is None or state is State.CLOSED:
            self._let_through(going)
        elif state is State.OPEN and (rest := since + policy.spec.open_for - now) > 0:
            self._find_open(going, rest)
        else:  # half open, or it should be by now, and its owner knows
            self._fleet.ask(probes_of(lane), partial(self._probes, going), now)

    def _probes(self, going: _Going, passes: bool | None, seconds: float) -> None:  # noqa: FBT001 - `Then`
        if passes:
            self._let_through(going)
        else:
            self._find_open(going, seconds, undecided=passes is None)

    def _find_open(self, going: _Going, seconds: float, *, undecided: bool = False) -> None:
        policy = going.resolved.circuit_breaker
        if policy is None:
            self._let_through(going)
            return
        seconds = max(DELAY_TIERS[0], seconds)
        message = f"the circuit breaker of {going.envelope.lane} is open"
        refusal = _Refusal(ErrorCode.CIRCUIT_OPEN, policy, message, seconds)
        if undecided:
            self._give_back(going)
            self._hold(going, refusal)
        else:
            self._refuse(going, refusal)

    def _let_through(self, going: _Going) -> None:
        envelope = replace(going.envelope, owing=False) if going.envelope.owing else going.envelope
        mirror = going.resolved.mirror
        if mirror is not None and not going.returned:
            copy = mirrored(mirror, envelope, self._clock())
            if copy is not None:
                versions = {**envelope.policies, mirror.key: mirror.version}
                envelope = replace(envelope, policies=versions)
                self._lanes.mirror(copy)
        self._lanes.send(envelope, going.source)

    # --- refused -------------------------------------------------------------------------

    def _refuse(self, going: _Going, refusal: _Refusal) -> None:
        self._give_back(going)
        fallback = going.resolved.fallback
        falls = fallback is not None and refusal.code in fallback.spec.on and not going.fell
        if going.returned:
            self._hold(going, refusal)
        elif fallback is not None and falls:
            self._fall_back(going, refusal, fallback)
        else:
            self._end(going, refusal)

    def _end(self, going: _Going, refusal: _Refusal) -> None:
        self._count(refusal.policy, "refused")
        failure = Failure(
            code=refusal.code,
            message=refusal.message,
            retry_after=round(max(refusal.seconds, 0.001), 3),
            detail={"policy": refusal.policy.key},
        )
        result = refused(going.envelope, self._clock(), failure)
        self._lanes.end(result, going.envelope, going.source)

    def _hold(self, going: _Going, refusal: _Refusal) -> None:
        """Let a task wait that is not to end for being refused."""
        self._count(refusal.policy, "held")
        if going.envelope.owing:
            self._wait_for(going, refusal.seconds, _WAITING[refusal.code])
        else:
            self._lanes.hold(going.envelope, going.source, _WAITING[refusal.code])

    def _wait_for(self, going: _Going, seconds: float, why: Waiting) -> None:
        due = self._clock() + timedelta(seconds=max(seconds, DELAY_TIERS[0]))
        self._lanes.wait_on(replace(going.envelope, not_before=due), going.source, why)

    def _give_back(self, going: _Going) -> None:
        if going.room is not None:
            self._fleet.free(going.room, monotonic())

    def _fall_back(self, going: _Going, refusal: _Refusal, fallback: FallbackPolicy) -> None:
        output = self._output(fallback.spec, going.envelope)
        if fallback.spec.last_good and output is None:
            self._end(going, refusal)
            return
        self._count(fallback, refusal.code.value)
        versions = {**going.envelope.policies, fallback.key: fallback.version}
        envelope = replace(going.envelope, policies=versions, bulkhead=None)
        going = replace(going, envelope=envelope, room=None)
        if fallback.spec.capability is not None:
            self._substitute(going, fallback.spec.capability)
        elif fallback.spec.accept:
            self._accept(going, refusal)
        else:
            result = substituted(envelope, self._clock(), output)
            self._lanes.end(result, envelope, going.source)

    def _output(self, spec: FallbackSpec, envelope: Envelope) -> Raw | None:
        if spec.last_good:
            oldest = self._clock() - timedelta(seconds=spec.max_age)
            return self._good.find(envelope, oldest)
        return Raw(encode(spec.value))

    def _substitute(self, going: _Going, capability: str) -> None:
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
        self._begin(_Going(envelope, resolved, going.source, fell=True))

    def _accept(self, going: _Going, refusal: _Refusal) -> None:
        """Answer that the task is accepted, and let it ask again when there may be room."""
        envelope = replace(going.envelope, owing=True)
        if envelope.reply_to is not None:
            said = encode(acceptance(envelope))
            self._results.announce(said, ACCEPTED_TYPE, envelope.reply_to, envelope.correlation_id)
        going = replace(going, envelope=envelope)
        self._wait_for(going, refusal.seconds, _WAITING[refusal.code])

    def _count(self, policy: Policy, decision: str) -> None:
        self._metrics.counter(POLICY_DECISIONS, policy.kind, policy.name, decision).inc()
