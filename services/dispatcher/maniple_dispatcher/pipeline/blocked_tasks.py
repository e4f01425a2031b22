"""What becomes of tasks that a stage does not let through now: a wait, a fallback, or the end."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from maniple.codec import encode
from maniple.messages import ACCEPTED_TYPE, MAX_TTL, Envelope, Failure, Waiting
from maniple.topology import DELAY_TIERS
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.admission import acceptance
from maniple_dispatcher.pipeline.fallback import Accept, Instead, Output, Substitute, instead
from maniple_dispatcher.pipeline.pipeline_task import PipelineTask
from maniple_dispatcher.pipeline.stages import still_owing
from maniple_dispatcher.pipeline.task_release import Go
from maniple_dispatcher.pipeline.verdicts import (
    LONGEST_WAIT,
    Reject,
    rejected,
    substituted,
)
from maniple_dispatcher.policy_resolver import PolicyResolver
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies import Policy
from maniple_policies.kinds.fallback import FallbackPolicy
from maniple_runtime.publish.batch_publisher import ResultPublisher


class StageRefusal(Struct, frozen=True):
    """A stage's refusal of a task: by which policy, and in which place it stands."""

    verdict: Reject
    policy: Policy
    place: int


class BlockedTasks:
    """Delays tasks, ends them, or gives them what is meant for refused ones."""

    def __init__(  # noqa: PLR0913 - all that a refused task may get
        self,
        lanes: LanePublisher,
        policies: PolicyResolver,
        results: ResultPublisher,
        *,
        good: ResultCache,
        clock: Callable[[], datetime],
        count: Callable[[Policy, str], None],
        begin: Go,
        leave: Callable[[PipelineTask, Go], None],
    ) -> None:
        """Have tasks `leave` the pipeline, or `begin` in it; `count` what policies decided."""
        self._lanes = lanes
        self._policies = policies
        self._results = results
        self._good = good
        self._clock = clock
        self._count = count
        self._begin = begin
        self._leave = leave

    def delay_task(self, task: PipelineTask, why: Waiting) -> None:
        """Hold a task back for a round; the rounds grow longer."""
        self._leave(task, lambda one: self._lanes.hold(one.envelope, one.source, why))

    def delay_for(self, task: PipelineTask, seconds: float, why: Waiting) -> None:
        """Hold a task back for so many seconds."""
        due = self._due(task, seconds)
        self._leave(task, lambda one: self._lanes.wait_on(due, one.source, why))

    def refuse_task(self, task: PipelineTask, refused: StageRefusal) -> None:
        """Give a refused task its fallback, or end it; one that is not to end waits."""
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

    def _end(self, task: PipelineTask, refused: StageRefusal) -> None:
        self._count(refused.policy, "refused")
        failure = Failure(
            code=refused.verdict.code,
            message=refused.verdict.message,
            retry_after=round(max(refused.verdict.seconds, 0.001), 3),
            detail={"policy": refused.policy.key},
        )
        result = rejected(task.envelope, self._clock(), failure)
        self._lanes.end_task(result, task.envelope, task.source)

    def _hold(self, task: PipelineTask, refused: StageRefusal) -> None:
        """Delay a task that is not to end for being refused.

        Of many that ask for one token the next gets it: so they ask ever less often, and none
        before there may be one.
        """
        self._count(refused.policy, "held")
        task = still_owing(refused.place, task)
        seconds, why = refused.verdict.seconds, refused.verdict.why
        if task.envelope.owing and seconds > LONGEST_WAIT:
            self.delay_for(task, seconds, why)
        else:
            self.delay_task(task, why)

    def _due(self, task: PipelineTask, seconds: float) -> Envelope:
        seconds = min(max(seconds, DELAY_TIERS[0]), MAX_TTL)  # it expires before that
        due = self._clock() + timedelta(seconds=seconds)
        return replace(task.envelope, not_before=due)

    def _fall_back(
        self, task: PipelineTask, refused: StageRefusal, fallback: FallbackPolicy, given: Instead
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
        self._begin(task)

    def _accept(self, task: PipelineTask, refused: StageRefusal) -> None:
        """Answer that the task is accepted, and ask again when there may be room."""
        task = still_owing(refused.place, task)
        self._leave(task, lambda one: self._promise(one, refused.verdict))

    def _promise(self, task: PipelineTask, refusal: Reject) -> None:
        envelope = task.envelope
        if envelope.reply_to is not None:
            said = encode(acceptance(envelope))
            self._results.announce(said, ACCEPTED_TYPE, envelope.reply_to, envelope.correlation_id)
        due = self._due(task, refusal.seconds)
        self._lanes.wait_on(due, task.source, refusal.why, insist=True)
