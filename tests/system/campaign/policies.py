"""Policies of every kind, in force for as long as a campaign lasts.

None of them has a reason to refuse a task: they let through far more than comes. So whatever is
refused, or gets a fallback's output, is a problem.
"""

from typing import Any

from policy_world import World
from system.campaign.workload import AFFINE, SHORT, SPLIT

CANARY, SHADOW = "canary", "shadow"
VARIANTS = f"{CANARY},{SHADOW}"
NAME = "campaign"
CHANGED = ("timeout", NAME)
"""Kind and name of the one that a fault changes."""
SECONDS = {"default": 60.0, "max": 120.0}
ALL = {"capability": "campaign.*"}
"""What those match that are about all tasks."""

DOCUMENTS: tuple[tuple[str, str, dict[str, Any], dict[str, str]], ...] = (
    ("rate_limit", NAME, {"limit": 2000, "burst": 10_000, "over": "reject"}, ALL),
    # One that takes long to fill again, and so is kept in Consul.
    (
        "rate_limit",
        "slow",
        {"limit": 100_000, "period": 3600, "over": "reject"},
        {"capability": AFFINE},
    ),
    ("bulkhead", NAME, {"max_in_flight": 2000, "per": ["capability"], "over": "reject"}, ALL),
    ("circuit_breaker", NAME, {"ratio": 0.9, "minimum": 200}, ALL),
    ("fallback", NAME, {"value": "instead of its output"}, ALL),
    ("retry", NAME, {"attempts": {"default": 3, "max": 5}}, ALL),
    (*CHANGED, {"seconds": SECONDS}, ALL),
    (
        "route",
        NAME,
        {"variants": [{"weight": 80}, {"variant": CANARY, "weight": 20}]},
        {"capability": SPLIT},
    ),
    ("mirror", NAME, {"variant": SHADOW, "percent": 10}, {"capability": SHORT}),
)


async def put_in_force(world: World) -> None:
    """Put all of them into force, in all dispatchers."""
    for kind, name, spec, match in DOCUMENTS:
        await world.apply(kind, name, spec, match=match)


def deciding(capability: str) -> frozenset[str]:
    """Return the policies that each result of a capability has to name."""
    kinds = {kind: name for kind, name, _, _ in DOCUMENTS if kind not in {"fallback", "mirror"}}
    kinds["rate_limit"] = "slow" if capability == AFFINE else NAME
    if capability != SPLIT:
        del kinds["route"]
    return frozenset(f"{kind}/{name}" for kind, name in kinds.items())
