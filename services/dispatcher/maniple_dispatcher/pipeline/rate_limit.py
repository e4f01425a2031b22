"""`rate_limit`: what is above it is refused, waits for its turn, or goes to a variant. Pure."""

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Waiting
from maniple.topology import DELAY_TIERS, lane_name
from maniple_dispatcher.limits.limit import TokenBucketLimit
from maniple_dispatcher.limits.token_bucket import Terms
from maniple_dispatcher.pipeline.limit_keys import divided
from maniple_dispatcher.pipeline.verdicts import (
    PASS,
    Delay,
    Divert,
    Pending,
    Reject,
    State,
    Verdict,
)
from maniple_policies.kinds.rate_limit import RateLimitPolicy


def rate_limit_of(policy: RateLimitPolicy, task: Envelope) -> TokenBucketLimit:
    """Return the limit that a task needs a token of."""
    spec = policy.spec
    reserve = spec.max_wait if spec.over == "shape" else 0.0
    # While a version is rolled out, those who have it have a bucket of their own.
    partial = "" if policy.rollout is None or policy.rollout.whole else "*"
    name = divided(policy.key + partial, spec.per, task)
    return TokenBucketLimit(name, Terms(spec.rate, spec.capacity, reserve))


def decide(task: Envelope, policy: RateLimitPolicy, state: State, _now: float) -> Verdict:
    """Ask for a token; without one, do as the policy says."""
    spec = policy.spec
    if state.passes is None:
        return Pending(rate_limit_of(policy, task))
    if state.passes and state.seconds < DELAY_TIERS[0]:
        return PASS
    if state.passes:
        return Delay(state.seconds, Waiting.LIMITED, "shaped")
    if spec.over == "degrade":
        return Divert(lane_name(task.capability, spec.variant), "degraded")
    message = f"more than {spec.limit:g} tasks in {spec.period:g} s"
    return Reject(ErrorCode.RATE_LIMITED, message, state.seconds, Waiting.LIMITED)
