"""Agents whose timings do not fit those of this registry. Pure."""

from enum import StrEnum

from maniple.timings import Bounds
from maniple_runtime.control.agent_timings import UNTOLD, AgentTimings


class Risk(StrEnum):
    """What may come of a mismatch."""

    RUNS_TWICE = "runs twice"
    """It stops exclusive tasks only after we have given them to others."""
    SUSPECTED = "suspected"
    """It is well and we suspect it, because it sends heartbeats less often than we expect."""


def misfit(told: AgentTimings | None, bounds: Bounds) -> Risk | None:
    """Return the worst risk of an agent's timings with these bounds."""
    kept = told or UNTOLD
    if kept.exclusive >= bounds.failed:
        return Risk.RUNS_TWICE
    return Risk.SUSPECTED if kept.heartbeat >= bounds.unreachable else None


def explained(told: AgentTimings | None, bounds: Bounds) -> str:
    """Return what does not fit, with the seconds of both sides."""
    kept = told or UNTOLD
    if misfit(told, bounds) is Risk.RUNS_TWICE:
        return (
            f"has stopped exclusive tasks after {kept.exclusive:g} s of silence, "
            f"and is failed here after {bounds.failed:g} s: they may run twice"
        )
    return (
        f"sends a heartbeat every {kept.heartbeat:g} s, "
        f"and is suspected here after {bounds.unreachable:g} s"
    )
