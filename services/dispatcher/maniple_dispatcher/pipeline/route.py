"""`route`: divides tasks among the variants of their capability. Pure."""

from maniple.messages import Envelope
from maniple.topology import lane_name
from maniple_dispatcher.pipeline.limit_keys import LABEL
from maniple_dispatcher.pipeline.verdicts import PASS, Divert, State, Verdict
from maniple_policies.kinds.route import RoutePolicy
from maniple_policies.rules import share_of


def route_of(policy: RoutePolicy, task: Envelope) -> str:
    """Return the lane of a task's variant."""
    spec = policy.spec
    sticky = task.id if spec.sticky == "task" else _sticky(spec.sticky, task)
    place = share_of(policy.key, task.tenant, sticky) / 100 * spec.weight
    for share in spec.variants:
        place -= share.weight
        if place < 0:
            break
    return lane_name(task.capability, share.variant)


def decide(task: Envelope, policy: RoutePolicy, _state: State, _now: float) -> Verdict:
    """Send a task to the lane of its variant."""
    lane = route_of(policy, task)
    return PASS if lane == task.lane else Divert(lane)


def _sticky(sticky: str, task: Envelope) -> str:
    if sticky == "affinity":
        return task.affinity or task.id
    if sticky == "tenant":
        return task.tenant
    if sticky.startswith(LABEL):
        return task.labels.get(sticky.removeprefix(LABEL)) or task.id
    return task.id
