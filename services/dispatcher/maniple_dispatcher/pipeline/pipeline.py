"""What the policies make of a task between its admission and its lane.

Each kind of policy that decides has a stage, in the order of `stages.py`: its variant, its rate
limit, room in its bulkhead, the breaker of its lane, its mirror. A stage says what is to be done,
and that is done here. Each limit (`Pending`) is asked of whoever owns it (`limits/coordinator.py`),
which takes no time if that is this process. What is refused gets its fallback, or ends with a code
and `retry_after`; what comes back from a wait has been admitted, and never ends for that: it waits
again. What nobody decided is no refusal: such a task gets neither an end nor what is meant for
refused ones, it waits and asks again.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from maniple.codec import encode
from maniple.errors import BrokerUnavailable
from maniple.messages import ACCEPTED_TYPE, MAX_TTL, Envelope, Failure, Waiting, without_room
from maniple.topology import DELAY_TIERS
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.redelivery import Redelivery
from maniple_dispatcher.ingress.submission import PolicyResolver
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_client import ConcurrencyLimit, Limit, TokenBucketLimit
from maniple_dispatcher.pipeline.fallback import Accept, Instead, Output, Substitute, instead
from maniple_dispatcher.pipeline.pipeline_task import (
    PipelineTask,
    rate_limit_passed,
    rate_limit_pending,
)
from maniple_dispatcher.pipeline.stages import FIRST_EVERY_TIME, FIRST_ONCE, ON_LEAVING, STAGES
from maniple_dispatcher.pipeline.verdicts import (
    LONGEST_WAIT,
    PASS,
    Delay,
    Divert,
    Pass,
    Pending,
    Reject,
    State,
    Verdict,
    acceptance,
    rejected,
    substituted,
)
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies import Policy, Resolved
from maniple_policies.kinds.fallback import FallbackPolicy
from maniple_policies.kinds.rate_limit import RateLimitPolicy
from maniple_runtime.metric_names import POLICY_DECISIONS
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement, as_ours
from maniple_runtime.telemetry import Metrics

_ONCE = range(FIRST_ONCE, FIRST_EVERY_TIME)
_PLACES = tuple((place, stage.kind, stage.decide) for place, stage in enumerate(STAGES))
_FROM = tuple(_PLACES[begin:] for begin in range(len(STAGES) + 1))
"""The stages from each place on."""
_COPIES = tuple((copies.kind, copies.copy) for copies in ON_LEAVING)

_log = logging.getLogger(__name__)


class _Refused(Struct, frozen=True):
    """A stage's refusal of a task: by which policy, and in which place it stands."""

    verdict: Reject
    policy: Policy
    place: int


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
        self._unasked = State(fleet.owned.breaker)
        self._granted = State(fleet.owned.breaker, passes=True)

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
            task = PipelineTask(envelope, resolved, source, submitted=True)
            self._run(task, 0, monotonic())
        else:
            self._lanes.send_task(envelope, source)

    def again(self, envelope: Envelope, source: Settlement) -> None:
        """Bring a task on its way that has waited: its bulkhead and its breaker may be shut now."""
        resolved = self._policies.resolve(
            envelope.capability, envelope.tenant, envelope.labels, envelope.id
        )
        if envelope.owing or (resolved.guarded and envelope.mirror_of is None):
            task = PipelineTask(envelope, resolved, source, returned=True)
            self._run(task, FIRST_ONCE, monotonic())
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
        charges = resolved.policy_of(RateLimitPolicy) is not None
        owes = charges and before in {Redelivery.SAID, Redelivery.BOTH}
        envelope = replace(envelope, waits=max(1, envelope.waits), owing=owes, again=again)
        if resolved.guarded or source.expires:
            task = PipelineTask(envelope, resolved, source, returned=True, submitted=True)
            self._run(task, 0, monotonic())
        else:
            self._lanes.send_task(envelope, source)

    # --- stage by stage ------------------------------------------------------------------

    def _run(self, task: PipelineTask, begin: int, now: float) -> None:
        """Take a task through the stages from this one on, and let it through.

        What has returned passes those of `ONCE` only if it still owes that.
        """
        returned, policy_of = task.returned, task.resolved.policies.get
        for place, kind, decide in _FROM[begin]:
            policy = policy_of(kind)
            if policy is None:
                continue
            if returned:
                if place >= FIRST_EVERY_TIME:
                    task = rate_limit_passed(task)
                elif place in _ONCE and not task.envelope.owing:
                    continue
            verdict = decide(task.envelope, policy, self._unasked, now)
            if verdict is PASS:
                continue
            if isinstance(verdict, Pending):  # the way of all that are under a limit
                told = partial(self._told, verdict.limit, task, policy, place)
                self._fleet.ask_permit(verdict.limit, told, now)
                return
            going = self._follow(verdict, task, policy, place, now)
            if going is None:
                return
            task = going
        if returned:
            task = rate_limit_passed(task)
        self._leave(task, partial(self._send, task))

    def _follow(
        self, verdict: Verdict, task: PipelineTask, policy: Policy, place: int, now: float
    ) -> PipelineTask | None:
        """Do what a stage has decided; return a task that goes on to the next one."""
        match verdict:
            case Pending():
                told = partial(self._told, verdict.limit, task, policy, place)
                self._fleet.ask_permit(verdict.limit, told, now)
            case Pass():
                return task
            case Divert(lane, decision):
                if decision is not None:
                    self._count(policy, decision)
                return replace(task, envelope=replace(task.envelope, lane=lane))
            case Delay(seconds, why, decision):
                self._count(policy, decision)
                self._wait_for(rate_limit_passed(self._give_back(task)), seconds, why)
            case Reject():
                self._refuse(self._give_back(task), _Refused(verdict, policy, place))
            case _:
                assert_never(verdict)
        return None

    def _send(self, task: PipelineTask) -> None:
        envelope = task.envelope
        if not task.returned:
            policy_of = task.resolved.policies.get
            for kind, copy_of in _COPIES:
                policy = policy_of(kind)
                if policy is None:
                    continue
                copy = copy_of(envelope, policy, self._clock())
                if copy is not None:
                    versions = {**envelope.policies, policy.key: policy.version}
                    envelope = replace(envelope, policies=versions)
                    self._lanes.mirror(copy)
        self._lanes.send_task(envelope, task.source)

    def _leave(self, task: PipelineTask, go: Callable[[], None]) -> None:
        """Let a task `go` that is not ended here, once that is recorded if somebody may ask.

        A dispatcher to which it is delivered again then knows whether it was charged, and one that
        finds that it has expired, whether it may run: what has no record never left, and is as new.
        So what is not ours any more must not leave: another may have ended it by now.
        """
        charged = RateLimitPolicy in task.resolved.policies
        asked = task.fell or charged or task.source.expires
        if not (task.submitted and asked):
            go()
        elif task.source.alive:
            self._lanes.admitted(task.envelope, task.source, partial(self._left, task, go))
        else:
            self._drop(task)

    def _drop(self, task: PipelineTask) -> None:
        self._give_back(task)
        task.source.settle(BrokerUnavailable("what it came in is delivered again"))

    def _left(self, task: PipelineTask, go: Callable[[], None]) -> None:
        try:
            if task.source.alive:
                go()
            else:
                self._drop(task)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task cannot be brought on its way")
            self._hold_failed(replace(task, submitted=False))

    # --- pending -------------------------------------------------------------------------

    def _told(  # noqa: PLR0913, PLR0917 - what a task waits with, and `Then`
        self,
        limit: Limit,
        task: PipelineTask,
        policy: Policy,
        place: int,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        """Ask a stage again, with an answer; whatever a task fails over costs this one only."""
        asking = task
        try:
            if passes is None:
                self._wait_undecided(_still_owing(limit, task), policy)
                return
            if passes and isinstance(limit, ConcurrencyLimit):
                envelope = replace(task.envelope, bulkhead=limit.key)
                task = replace(task, envelope=envelope, room=limit)
            at_once = passes and not seconds  # as nearly always
            state = self._granted if at_once else State(self._granted.breaker, passes, seconds)
            now = monotonic()
            verdict = STAGES[place].decide(task.envelope, policy, state, now)
            if verdict is not PASS:
                going = self._follow(verdict, task, policy, place, now)
                if going is None:
                    return
                task = going
            self._run(task, place + 1, now)
        except Exception:  # noqa: BLE001 - one of them must not cost the others, who come next
            _log.exception("a task cannot be brought on its way")
            charged = isinstance(limit, TokenBucketLimit)
            self._hold_failed(_still_owing(limit, asking) if charged else task)

    def _hold_failed(self, task: PipelineTask) -> None:
        """Let a task wait over which this dispatcher fails: it may be another that takes it then.

        One that cannot wait either is refused by its source, and ends as the broker's dead letter.
        """
        try:
            task = self._give_back(task)
            self._wait(task, Waiting.UNDECIDED)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is settled
            _log.exception("nor can it wait")
            task.source.settle(as_ours(error))

    def _wait_undecided(self, task: PipelineTask, policy: Policy) -> None:
        """Let a task ask again later that nobody has refused."""
        task = self._give_back(task)
        self._count(policy, "undecided")
        self._wait(task, Waiting.UNDECIDED)

    def _wait(self, task: PipelineTask, why: Waiting) -> None:
        self._leave(task, partial(self._lanes.hold, task.envelope, task.source, why))

    # --- refused -------------------------------------------------------------------------

    def _refuse(self, task: PipelineTask, refused: _Refused) -> None:
        if task.returned or not refused.verdict.ends:
            self._hold(task, refused)
            return
        fallback = None if task.fell else task.resolved.policy_of(FallbackPolicy)
        if fallback is not None:
            given = instead(
                task.envelope, fallback, refused.verdict, good=self._good, now=self._clock()
            )
            if given is not None:
                self._fall_back(task, refused, fallback, given)
                return
        self._end(task, refused)

    def _end(self, task: PipelineTask, refused: _Refused) -> None:
        self._count(refused.policy, "refused")
        failure = Failure(
            code=refused.verdict.code,
            message=refused.verdict.message,
            retry_after=round(max(refused.verdict.seconds, 0.001), 3),
            detail={"policy": refused.policy.key},
        )
        result = rejected(task.envelope, self._clock(), failure)
        self._lanes.end_task(result, task.envelope, task.source)

    def _hold(self, task: PipelineTask, refused: _Refused) -> None:
        """Let a task wait that is not to end for being refused.

        Of many that ask for one token the next gets it: so they ask ever less often, and none
        before there may be one.
        """
        self._count(refused.policy, "held")
        seconds, why = refused.verdict.seconds, refused.verdict.why
        if task.envelope.owing and seconds > LONGEST_WAIT:
            self._wait_for(task, seconds, why)
        else:
            self._wait(task, why)

    def _wait_for(self, task: PipelineTask, seconds: float, why: Waiting) -> None:
        due = self._due(task, seconds)
        self._leave(task, partial(self._lanes.wait_on, due, task.source, why))

    def _due(self, task: PipelineTask, seconds: float) -> Envelope:
        seconds = min(max(seconds, DELAY_TIERS[0]), MAX_TTL)  # it expires before that
        due = self._clock() + timedelta(seconds=seconds)
        return replace(task.envelope, not_before=due)

    def _give_back(self, task: PipelineTask) -> PipelineTask:
        """Give back room that a task got, and return it without."""
        if task.room is None:
            return task
        self._fleet.return_permit(task.room, monotonic())
        return replace(task, envelope=without_room(task.envelope), room=None)

    # --- instead -------------------------------------------------------------------------

    def _fall_back(
        self, task: PipelineTask, refused: _Refused, fallback: FallbackPolicy, given: Instead
    ) -> None:
        self._count(fallback, refused.verdict.code.value)
        versions = {**task.envelope.policies, fallback.key: fallback.version}
        task = replace(task, envelope=replace(task.envelope, policies=versions))
        match given:
            case Output(output):
                result = substituted(task.envelope, self._clock(), output)
                self._lanes.end_task(result, task.envelope, task.source)
            case Substitute(capability):
                self._substitute(task, capability)
            case Accept():
                self._accept(task, refused)
            case _:
                assert_never(given)

    def _substitute(self, task: PipelineTask, capability: str) -> None:
        """Run another capability; the task keeps its id, its sender and its deadline."""
        envelope = task.envelope
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
        task = PipelineTask(envelope, resolved, task.source, submitted=True, fell=True)
        self._run(task, 0, monotonic())

    def _accept(self, task: PipelineTask, refused: _Refused) -> None:
        """Answer that the task is accepted, and let it ask again when there may be room."""
        if refused.place in _ONCE:
            task = rate_limit_pending(task)
        self._leave(task, partial(self._promise, task, refused.verdict))

    def _promise(self, task: PipelineTask, refusal: Reject) -> None:
        envelope = task.envelope
        if envelope.reply_to is not None:
            said = encode(acceptance(envelope))
            self._results.announce(said, ACCEPTED_TYPE, envelope.reply_to, envelope.correlation_id)
        due = self._due(task, refusal.seconds)
        self._lanes.wait_on(due, task.source, refusal.why, insist=True)

    def _count(self, policy: Policy, decision: str) -> None:
        self._metrics.counter(POLICY_DECISIONS, policy.kind, policy.name, decision).inc()


def _still_owing(limit: Limit, task: PipelineTask) -> PipelineTask:
    """Return a task that still has to ask for the token that it asked for, if it was one."""
    return rate_limit_pending(task) if isinstance(limit, TokenBucketLimit) else task
