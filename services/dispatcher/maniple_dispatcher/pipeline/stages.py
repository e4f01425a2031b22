"""The order of the stages: which kind of policy is asked when. Pure.

A task goes through them from the first when it is new; what comes back from a wait has been
admitted, and asks again only those of `EVERY_TIME` (and, if it could not ask them, of `ONCE`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from maniple.messages import Envelope
from maniple_dispatcher.pipeline import bulkhead, circuit_breaker, rate_limit, route
from maniple_dispatcher.pipeline.mirror import mirrored
from maniple_dispatcher.pipeline.pipeline_task import PipelineTask, once_pending
from maniple_dispatcher.pipeline.verdicts import State, Verdict
from maniple_policies import Policy, Resolved
from maniple_policies.kinds.bulkhead import BulkheadPolicy
from maniple_policies.kinds.circuit_breaker import CircuitBreakerPolicy
from maniple_policies.kinds.mirror import MirrorPolicy
from maniple_policies.kinds.rate_limit import RateLimitPolicy
from maniple_policies.kinds.route import RoutePolicy

_Kind = TypeVar("_Kind", bound=Policy)


@dataclass(frozen=True, slots=True)
class Stage(Generic[_Kind]):
    """What decides about a task for which a policy of a kind holds. Pure.

    It is asked with the task, the policy, what is known, and the time as `time.monotonic` tells it;
    after a `Pending` once more, with the answer.
    """

    kind: type[_Kind]
    decide: Callable[[Envelope, _Kind, State, float], Verdict]


@dataclass(frozen=True, slots=True)
class Copies(Generic[_Kind]):
    """What makes a copy of a task that goes to its lane, or None. Pure."""

    kind: type[_Kind]
    copy: Callable[[Envelope, _Kind, datetime], Envelope | None]


ON_SUBMISSION: tuple[Stage[Any], ...] = (Stage(RoutePolicy, route.decide),)
"""Whenever a task is submitted, also when that is delivered again, and never after a wait."""
ONCE: tuple[Stage[Any], ...] = (Stage(RateLimitPolicy, rate_limit.decide),)
"""Until it has passed them all: one that is refused and waits is asked by all of them again."""
EVERY_TIME: tuple[Stage[Any], ...] = (
    Stage(BulkheadPolicy, bulkhead.decide),
    Stage(CircuitBreakerPolicy, circuit_breaker.decide),
)
"""Also when it comes back from a wait: one that one of these delays is asked again after that."""
STAGES = (*ON_SUBMISSION, *ONCE, *EVERY_TIME)
FIRST_ONCE = len(ON_SUBMISSION)
FIRST_EVERY_TIME = FIRST_ONCE + len(ONCE)
PLACES_ONCE = range(FIRST_ONCE, FIRST_EVERY_TIME)
"""Where those of `ONCE` stand in `STAGES`."""
_CHARGING = frozenset(stage.kind for stage in ONCE)
ON_LEAVING: tuple[Copies[Any], ...] = (Copies(MirrorPolicy, mirrored),)
"""When a new task goes to its lane."""


def is_charged(resolved: Resolved) -> bool:
    """Whether a task has to pass something once: whoever finds it again asks if it has."""
    return not _CHARGING.isdisjoint(resolved.policies)


def still_owing(place: int, task: PipelineTask) -> PipelineTask:
    """Return a task that stops at the stage in this place: one of `ONCE` it has yet to pass."""
    return once_pending(task) if place in PLACES_ONCE else task
