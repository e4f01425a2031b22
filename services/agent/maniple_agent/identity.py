"""What an agent says of itself, and whether another process that lives has its id already."""

import asyncio
import os
import platform
import socket
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from maniple.errors import BrokerUnavailable, ConfigurationError, PublishRefused, RequestFailed
from maniple.identifiers import new_id
from maniple.messages import WIRE
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor as Kind
from maniple.timings import Heartbeats
from maniple.topology import request_queue
from maniple_agent.executors import Executor
from maniple_agent.lane_consumers import LaneConsumers
from maniple_agent.pids import exists
from maniple_agent.settings import AgentSettings
from maniple_runtime.control.agent_timings import AgentTimings
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.runtime import Runtime

ASKED = 1.0  # seconds for an answer; without one, nobody knows of another
LOOKS = 12  # in the time in which who lives sends a heartbeat
REGISTRY = "registry"
BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")
HOLDS = {"active", "unreachable", "draining"}


def describe(
    runtime: Runtime[AgentSettings],
    registry: TaskRegistry,
    lanes: LaneConsumers,
    executors: Mapping[Kind, Executor],
) -> AgentDescription:
    """Return what does not change about this life of the agent."""
    settings = runtime.settings
    return AgentDescription(
        agent=AgentId(settings.instance),
        incarnation=Incarnation(new_id()),
        host=socket.gethostname(),
        pid=os.getpid(),
        capabilities=tuple(definition.capability for definition in registry),
        affinity=tuple(d.capability for d in registry if d.affinity),
        lanes=lanes.names,
        variants=settings.variants,
        labels=settings.labels,
        versions={"maniple": version("maniple"), "python": platform.python_version()},
        slots={kind.value: executor.capacity for kind, executor in executors.items()},
        http=runtime.http_url,
        started_at=runtime.clock.now(),
        timings=AgentTimings.of_timings(settings.timings),
        wire=WIRE,
        pids=pids(),
    )


async def check_id(
    plane: ControlPlane,
    ours: AgentDescription,
    times: Heartbeats,
    monotonic: Callable[[], float],
) -> None:
    """Raise `ConfigurationError`, which says who it is, if another process lives under our id.

    A registry knows who had it last. That one lives if heartbeats of it go on being heard while we
    wait for one: what was killed is silent, and we take its place. Where no registry answers we
    start, too: then the later one of two has the id, and the other one leaves when a registry hears
    both.

    One that is new to us proves nothing: what was killed had sent it before, and the registry that
    we asked first had not heard it yet, or not what another one has. The next one proves it.
    """
    known = await _holder(plane, ours, monotonic)
    if known is None:
        return
    log = structlog.get_logger("maniple.agent.identity")
    log.info("waiting to see whether another agent with this id is alive", host=known.get("host"))
    patience = times.longest + ASKED
    until = monotonic() + patience
    again: float | None = None  # when we first knew of a heartbeat after the one told at first
    while (seen := await _next(plane, ours, monotonic, patience / LOOKS)) is not None:
        if _is_later(seen, known, times.period / 2):
            known = seen
            if again is None:
                again = float(seen["told_at"])
                until = again + patience
            elif seen["asked_at"] > again + times.period / 2:
                host, pid = (seen.get(name) or "unknown" for name in ("host", "pid"))
                raise ConfigurationError(
                    f"agent {ours.agent} runs already, on host {host} with pid {pid}: "
                    "give each its own MANIPLE_INSTANCE"
                )
        if seen["told_at"] >= until:
            return


async def _next(
    plane: ControlPlane, ours: AgentDescription, monotonic: Callable[[], float], pause: float
) -> Mapping[str, Any] | None:
    await asyncio.sleep(pause)
    return await _holder(plane, ours, monotonic)


async def _holder(
    plane: ControlPlane, ours: AgentDescription, monotonic: Callable[[], float]
) -> Mapping[str, Any] | None:
    """Return what a registry tells of who has our id, and when it did; None if nobody has it."""
    asked_at = monotonic()
    try:
        if not await plane.is_served(request_queue(REGISTRY).name, ASKED):
            return None
        told = await plane.request(REGISTRY, "agent", {"id": ours.agent}, ASKED)
    except (BrokerUnavailable, PublishRefused, RequestFailed):
        return None
    told |= {"asked_at": asked_at, "told_at": monotonic()}
    if told.get("state") not in HOLDS or not isinstance(told.get("heartbeat_age"), int | float):
        return None
    return None if _is_gone(told, ours) else told


def _is_later(seen: Mapping[str, Any], known: Mapping[str, Any], margin: float) -> bool:
    """Whether the last heartbeat of `seen` is another one, and after that of `known`.

    By its own number, whoever heard it. A registry that is older than that tells only when it heard
    it: no two hear one at the same time, and its answer was under way.
    """
    number, before = _number(seen), _number(known)
    if number is not None and before is not None:
        return number > before
    since = float(known["told_at"]) - float(known["heartbeat_age"])
    return float(seen["asked_at"]) - float(seen["heartbeat_age"]) > since + margin


def _number(told: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return what rises with each heartbeat, also from one life to the next; None if not told."""
    life, sequence = told.get("incarnation"), told.get("sequence")
    return (life, sequence) if isinstance(life, str) and isinstance(sequence, int) else None


def pids() -> str:
    """Return what is equal for two processes if one finds the other by its pid, or else nobody.

    Containers may share the name of a host, and not its pids. Empty where Linux does not tell.
    """
    try:
        boot = BOOT.read_text().strip()
        return f"{boot} {NAMESPACE.stat().st_ino}" if boot else ""
    except (OSError, ValueError):
        return ""


def _is_gone(told: Mapping[str, Any], ours: AgentDescription) -> bool:
    """Whether it ran where we do, and does not any more, or is an earlier attempt of our own."""
    pid = told.get("pid")
    if (told.get("host"), told.get("pids")) != (ours.host, ours.pids) or not ours.pids:
        return False
    if not isinstance(pid, int) or pid <= 0:
        return False
    return pid == ours.pid or not exists(pid)
