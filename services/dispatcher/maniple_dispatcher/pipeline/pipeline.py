"""What the policies make of a task between its admission and its lane.

Each kind of policy that decides has a stage, in the order of `stages.py`: its variant, its rate
limit, room in its bulkhead, the breaker of its lane, its mirror. A stage says what is to be done,
and that is done here, or in `blocked_tasks.py` if the task is not let through now; it leaves by
`task_release.py`. Each limit (`Pending`) is asked of whoever owns it (`limits/coordinator.py`),
which takes no time if that is this process. What is refused gets its fallback, or ends with a code
and `retry_after`; what comes back from a wait has been admitted, and never ends for that: it waits
again. What nobody decided is no refusal: such a task gets neither an end nor what is meant for
refused ones, it waits and asks again.
"""

import logging
from functools import partial
from typing import assert_never

from msgspec.structs import replace

from maniple.clock import Clock
from maniple.messages import Envelope, Waiting, without_room
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.limit import Limit
from maniple_dispatcher.pipeline.blocked_tasks import BlockedTasks, StageRefusal
from maniple_dispatcher.pipeline.pipeline_task import (
    PipelineTask,
    delayed,
    once_passed,
    with_room,
)
from maniple_dispatcher.pipeline.stages import (
    FIRST_EVERY_TIME,
    FIRST_ONCE,
    PLACES_ONCE,
    STAGES,
    is_charged,
    still_owing,
)
from maniple_dispatcher.pipeline.task_release import TaskRelease
from maniple_dispatcher.pipeline.verdicts import PASS, Delay, Divert, Pass, Pending, Reject, State
from maniple_dispatcher.policy_resolver import PolicyResolver
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies import Policy, Resolved
from maniple_runtime.metric_names import POLICY_DECISIONS
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement, as_ours
from maniple_runtime.telemetry import Metrics

_PLACES = tuple((place, stage.kind, stage.decide) for place, stage in enumerate(STAGES))
_FROM = tuple(_PLACES[begin:] for begin in range(len(STAGES) + 1))
"""The stages from each place on."""
_AGAIN = tuple(tuple(one for one in stages if one[0] not in PLACES_ONCE) for stages in _FROM)
"""Those of what has returned and has passed those of `ONCE`."""

_Decided = Pass | Divert | Delay | Reject
_Asked = tuple[int, PipelineTask]
"""The place of the stage that asked last, and the task as it was then."""

_NEW = Redelivery.UNKNOWN  # for each task: looking up a member of an enum takes its time
_log = logging.getLogger(__name__)


class Pipeline:
    """Lets tasks through to `lanes`, as the policies say."""

    def __init__(  # noqa: PLR0913 - where all that decides about a task meets
        self,
        lanes: LanePublisher,
        coordinator: Coordinator,
        policies: PolicyResolver,
        results: ResultPublisher,
        *,
        good: ResultCache,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """Ask `coordinator` for permits; reply through `results`, or with what is `good`."""
        self._lanes = lanes
        self._coordinator = coordinator
        self._policies = policies
        self._metrics = metrics
        self._clock, self._monotonic = clock.now, clock.monotonic
        self._unasked = State(coordinator.owned.breaker)
        self._granted = State(coordinator.owned.breaker, passes=True)
        self._release = TaskRelease(
            lanes,
            clock.now,
            give_back=self._give_back,
            wait_undecided=self._wait_undecided,
        )
        self._blocked = BlockedTasks(
            lanes,
            policies,
            results,
            good=good,
            clock=clock.now,
            count=self._count,
            begin=self._begin,
            leave=self._release.release_task,
        )

    def admit(
        self,
        envelope: Envelope,
        resolved: Resolved,
        source: Settlement,
        before: Redelivery = _NEW,
    ) -> None:
        """Bring a new task on its way, unless it is over already.

        What may have been admitted `before` is never refused: it passes or waits.
        """
        if self._lanes.ends(envelope, source, self._clock()):
            return
        if before is not _NEW:
            self._admit_again(envelope, resolved, source, before)
        elif resolved.guarded or source.expires:
            self._run(
                PipelineTask(envelope, resolved, source, submitted=True), 0, self._monotonic()
            )
        else:
            self._lanes.send_task(envelope, source)

    def again(self, envelope: Envelope, source: Settlement) -> None:
        """Bring a task on its way that has waited: its bulkhead and its breaker may be shut now."""
        resolved = self._policies.resolve(
            envelope.capability, envelope.tenant, envelope.labels, envelope.id
        )
        if envelope.owing or (resolved.guarded and envelope.mirror_of is None):
            task = PipelineTask(envelope, resolved, source, returned=True)
            self._run(task, FIRST_ONCE, self._monotonic())
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
        owes = is_charged(resolved) and before in {Redelivery.SAID, Redelivery.BOTH}
        envelope = replace(envelope, waits=max(1, envelope.waits), owing=owes, again=again)
        if resolved.guarded or source.expires:
            task = PipelineTask(envelope, resolved, source, returned=True, submitted=True)
            self._run(task, 0, self._monotonic())
        else:
            self._lanes.send_task(envelope, source)

    # --- stage by stage ------------------------------------------------------------------

    def _run(  # noqa: C901 - one loop for every stage: a call more would be made for each task
        self,
        task: PipelineTask,
        begin: int,
        now: float,
        asked: _Asked | None = None,
        state: State | None = None,
    ) -> None:
        """Run a task through the stages from this one on, and send it on.

        The first one knows the `state`, if it has `asked`. Once any has, whatever a task fails over
        costs this one only: it may have got something.
        """
        policy_of, state = task.resolved.policies.get, state or self._unasked
        passes_once = task.returned and not task.envelope.owing
        try:
            for place, kind, decide in (_AGAIN if passes_once else _FROM)[begin]:
                policy = policy_of(kind)
                if policy is None:
                    continue
                if place >= FIRST_EVERY_TIME:
                    if task.delay is not None:
                        break
                    task = once_passed(task)
                verdict = decide(task.envelope, policy, state, now)
                state = self._unasked
                while isinstance(verdict, Pending):
                    answer = self._ask(verdict.limit, task, policy, place, now)
                    if answer is None:
                        return
                    asked, task = (place, task), with_room(task, verdict.limit, answer)
                    verdict = decide(task.envelope, policy, answer, now)
                if verdict is not PASS:
                    if not isinstance(verdict, Divert):
                        task = self._give_back(task)  # once, also if what follows fails
                    passed = self._follow(verdict, task, policy, place)
                    if passed is None:
                        return
                    task = passed
            self._pass(once_passed(task))
        except Exception as error:  # noqa: BLE001 - one of them must not cost the others
            self._fail(task, asked, error)

    def _pass(self, task: PipelineTask) -> None:
        """Send a task to its lane that every stage has passed, or have it wait first."""
        if task.delay is None:
            self._release.release_task(task, self._release.send_with_copies)
        else:
            self._blocked.delay_for(task, task.delay.seconds, task.delay.why)

    def _begin(self, task: PipelineTask) -> None:
        self._run(task, 0, self._monotonic())

    def _follow(
        self, verdict: _Decided, task: PipelineTask, policy: Policy, place: int
    ) -> PipelineTask | None:
        """Do what a stage has decided; return a task that goes on to the next one."""
        match verdict:
            case Pass():
                return task
            case Divert(lane, decision):
                if decision is not None:
                    self._count(policy, decision)
                return replace(task, envelope=replace(task.envelope, lane=lane))
            case Delay(seconds, why, decision):
                self._count(policy, decision)
                if place < FIRST_EVERY_TIME:
                    return delayed(task, verdict)
                self._blocked.delay_for(task, seconds, why)
            case Reject():
                refused = StageRefusal(verdict, policy, place)
                self._blocked.refuse_task(task, refused)
            case _:
                assert_never(verdict)
        return None

    # --- pending -------------------------------------------------------------------------

    def _ask(
        self, limit: Limit, task: PipelineTask, policy: Policy, place: int, now: float
    ) -> State | None:
        """Return what a stage is told of a limit, if that is known at once; else the task waits."""
        given = self._coordinator.take_permit(limit, now)
        if given is None:
            self._coordinator.await_permit(limit, partial(self._told, limit, task, place), now)
            return None
        if given.granted:
            if given.first <= 0:  # as nearly always
                return self._granted
            return State(self._granted.breaker, passes=True, seconds=given.first)
        if given.undecided:
            self._wait_undecided(still_owing(place, task), policy)
            return None
        return State(self._granted.breaker, passes=False, seconds=given.again)

    def _told(
        self,
        limit: Limit,
        task: PipelineTask,
        place: int,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        """Go on with a task, when the owner of a limit has answered."""
        if passes is None:
            policy = task.resolved.policies[STAGES[place].kind]
            self._wait_undecided(still_owing(place, task), policy)
            return
        state = State(self._granted.breaker, passes, seconds)
        self._run(with_room(task, limit, state), place, self._monotonic(), (place, task), state)

    def _fail(self, task: PipelineTask, asked: _Asked | None, error: Exception) -> None:
        """Delay a task over which this dispatcher fails: another may take it then.

        It asks again for what it was charged, as it was when it asked.
        """
        if asked is None:
            raise error
        _log.error("a task cannot be dispatched", exc_info=error)
        place, asking = asked
        self._wait_undecided(still_owing(place, asking if place in PLACES_ONCE else task))

    def _wait_undecided(self, task: PipelineTask, policy: Policy | None = None) -> None:
        """Delay a task that nobody has refused; what a `policy` left open is counted.

        One that cannot wait is refused by its source, and ends as the broker's dead letter.
        """
        try:
            task = self._give_back(task)
            if policy is not None:
                self._count(policy, "undecided")
            self._blocked.delay_task(task, Waiting.UNDECIDED)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is settled
            _log.exception("a task that was not refused cannot be delayed")
            task.source.settle(as_ours(error))

    def _give_back(self, task: PipelineTask) -> PipelineTask:
        """Give back room that a task got, and return it without."""
        if task.room is None:
            return task
        self._coordinator.return_permit(task.room, self._monotonic())
        return replace(task, envelope=without_room(task.envelope), room=None)

    def _count(self, policy: Policy, decision: str) -> None:
        self._metrics.counter(POLICY_DECISIONS, policy.kind, policy.name, decision).inc()
