"""Whether another process that lives has this agent's id already."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import structlog

from maniple.control import AgentDescription
from maniple.errors import BrokerUnavailable, ConfigurationError, PublishRefused, RequestFailed
from maniple.service.broker import ControlPlane
from maniple.timings import Heartbeats
from maniple.topology import request_queue

ASKED = 1.0  # seconds for an answer; without one, nobody knows of another
LOOKS = 12  # in the time in which who lives sends a heartbeat
REGISTRY = "registry"
HOLDS = {"active", "unreachable", "draining"}


async def check_id(plane: ControlPlane, ours: AgentDescription, times: Heartbeats) -> None:
    """Raise `ConfigurationError`, which says who it is, if another process lives under our id.

    A registry knows who had it last. That one lives if a heartbeat of it is heard while we wait for
    one: what was killed is silent, and we take its place. Where no registry answers we start, too:
    then the later one of two has the id, and the other one leaves when a registry hears both.
    """
    first = await _holder(plane, ours)
    if first is None:
        return
    log = structlog.get_logger("maniple.agent.identity")
    log.info("waiting whether who had this id still lives", host=first.get("host"))
    patience = times.longest + ASKED
    for _ in range(LOOKS):
        await asyncio.sleep(patience / LOOKS)
        seen = await _holder(plane, ours)
        if seen is None:
            return
        if _heard_at(seen) > _heard_at(first) + times.period / 2:
            host, pid = (seen.get(name) or "unknown" for name in ("host", "pid"))
            raise ConfigurationError(
                f"agent {ours.agent} runs already, on host {host} with pid {pid}: "
                "give each its own MANIPLE_INSTANCE"
            )


async def _holder(plane: ControlPlane, ours: AgentDescription) -> Mapping[str, Any] | None:
    """Return what a registry tells of who has our id, and when it did; None if nobody has it."""
    try:
        if not await plane.is_served(request_queue(REGISTRY).name, ASKED):
            return None
        told = await plane.request(REGISTRY, "agent", {"id": ours.agent}, ASKED)
    except (BrokerUnavailable, PublishRefused, RequestFailed):
        return None
    told["told_at"] = asyncio.get_running_loop().time()
    if told.get("state") not in HOLDS or not isinstance(told.get("heartbeat_age"), int | float):
        return None
    return None if _is_gone(told, ours) else told


def _heard_at(told: Mapping[str, Any]) -> float:
    """Return when it was heard last, by our clock, or a little later."""
    return float(told["told_at"]) - float(told["heartbeat_age"])


def _is_gone(told: Mapping[str, Any], ours: AgentDescription) -> bool:
    """Whether it ran on this host, and does not any more, or is an earlier attempt of our own."""
    pid = told.get("pid")
    if told.get("host") != ours.host or not isinstance(pid, int) or pid <= 0:
        return False
    if pid == ours.pid:  # in two containers that bear one name each may be the first process
        return told.get("http") == ours.http
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
