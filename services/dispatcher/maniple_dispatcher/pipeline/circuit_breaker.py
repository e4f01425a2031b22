"""`circuit_breaker`: a lane whose tasks fail gets none for a while, and then a few. Pure."""

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Waiting
from maniple.topology import DELAY_TIERS
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.lease_owner import probes_of
from maniple_dispatcher.pipeline.verdicts import PASS, Pending, Reject, State, Verdict
from maniple_dispatcher.policy_resolver import PolicyResolver
from maniple_policies.kinds.circuit_breaker import CircuitBreakerPolicy, CircuitBreakerSpec

DEFAULT_TENANT = "default"


def spec_of_lane(policies: PolicyResolver, lane: str) -> CircuitBreakerSpec | None:
    """Return the policy of a lane's breaker, if there is one."""
    capability = lane.partition("@")[0]
    policy = policies.resolve(capability, DEFAULT_TENANT, {}).policy_of(CircuitBreakerPolicy)
    return policy.spec if policy else None


def decide(task: Envelope, policy: CircuitBreakerPolicy, state: State, now: float) -> Verdict:
    """Look at the breaker of a task's lane; of one that may be half open its owner is asked."""
    breaker, since = state.breaker(task.lane)
    if state.passes is None and breaker is BreakerState.CLOSED:
        return PASS
    rest = since + policy.spec.open_for - now if breaker is BreakerState.OPEN else 0.0
    if rest <= 0:
        if state.passes is None:  # half open, or it should be by now, and its owner knows
            return Pending(probes_of(task.lane))
        if state.passes:
            return PASS
    # With an answer, it may have opened again since that was given.
    seconds = max(DELAY_TIERS[0], rest, 0.0 if state.passes is None else state.seconds)
    message = f"the circuit breaker of {task.lane} is open"
    return Reject(ErrorCode.CIRCUIT_OPEN, message, seconds, Waiting.CIRCUIT_OPEN)
