"""`bulkhead`: a task needs room, and without any is refused or waits. Pure."""

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Waiting
from maniple_dispatcher.limits.limit import ConcurrencyLimit
from maniple_dispatcher.pipeline.limit_keys import divided
from maniple_dispatcher.pipeline.verdicts import PASS, Pending, Reject, State, Verdict
from maniple_policies.kinds.bulkhead import BulkheadPolicy


def bulkhead_of(policy: BulkheadPolicy, task: Envelope) -> ConcurrencyLimit:
    """Return the bulkhead that a task needs room in."""
    name = divided(policy.key, policy.spec.per, task)
    return ConcurrencyLimit(name, policy.spec.max_in_flight, task.lane)


def decide(task: Envelope, policy: BulkheadPolicy, state: State, _now: float) -> Verdict:
    """Ask for room."""
    if state.passes is None:
        return Pending(bulkhead_of(policy, task))
    if state.passes:
        return PASS
    message = f"{policy.spec.max_in_flight} tasks are in flight"
    ends = policy.spec.over != "wait"
    return Reject(ErrorCode.OVERLOADED, message, state.seconds, Waiting.FULL_BULKHEAD, ends)
