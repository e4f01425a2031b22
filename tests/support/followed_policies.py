"""A process's view of the policies, followed as its composition root does."""

from typing import Any

from maniple.topology import EVENTS
from maniple_runtime.events import PolicyChanged
from maniple_runtime.policy_view import PolicyView


async def follow_policies(view: PolicyView, plane: Any) -> None:
    """Make a view follow the policies over a control plane."""
    view.load_kept()
    await plane.subscribe(EVENTS, (PolicyChanged.KEY,), PolicyChanged, view.on_policy_changed)
    view.start_following()
