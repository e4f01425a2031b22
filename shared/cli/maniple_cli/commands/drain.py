"""`maniple agent drain`: one agent finishes its work and leaves."""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from maniple.errors import BrokerUnavailable, RequestFailed
from maniple_cli.commands.agents import DEAF
from maniple_cli.control import ask_over, operator_plane
from maniple_cli.output import (
    BrokerOption,
    ExitCode,
    JsonOption,
    complain,
    error_console,
    operator_url,
    print_line,
    run,
)
from maniple_runtime.control.agent_timings import UNTOLD
from maniple_runtime.control.messages import Drain
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.control.routing_keys import agent_key
from maniple_runtime.shown import shown

PERIOD = 0.5
WAY_OUT = 5.0  # seconds that an agent has for it beyond the drain timeout
LONGEST = 3600.0
UNKNOWN_AGENT = "unknown_agent"
PROCESS = ("host", "pid", "http")
ENDS = {"left": ExitCode.DONE, "failed": ExitCode.FAILED}

AgentArgument = Annotated[
    str, typer.Argument(metavar="AGENT", help="The agent's id, as 'maniple agents' shows it.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--drain-timeout",
        min=0.0,
        max=LONGEST,
        help="Seconds that running tasks may take; only shortens what the agent was started with.",
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until the agent has left.")
]


def drain(
    agent: AgentArgument,
    *,
    drain_timeout: TimeoutOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Drain an agent: it takes nothing new, finishes what runs, hands back the rest, leaves."""
    work = _drain(broker_url, agent, drain_timeout, wait=wait, as_json=as_json)
    raise typer.Exit(run(work))


async def _drain(
    broker_url: str | None, agent: str, timeout: float | None, *, wait: bool, as_json: bool
) -> ExitCode:
    async with operator_plane(operator_url(broker_url)) as plane:
        before = await ask_over(plane, "registry", "agent", {"id": agent})
        if not before.get("hearing", True):
            complain(DEAF)
        if before["state"] in ENDS:
            complain(f"{agent} is not running: it has {before['state']}")
            return ExitCode.FAILED
        if not await plane.command(agent_key(agent), Drain(timeout=timeout)):
            complain(
                f"{agent} does not listen to commands; the registry calls it {before['state']}"
            )
            return ExitCode.FAILED
        after = await _until_gone(plane, agent, before, timeout) if wait else before
    if as_json:
        told = {"agent": agent, "state": after["state"] if wait else "told"}
        print_line(json.dumps(told))
    elif wait and after["state"] in ENDS:
        print_line(f"{agent} has {after['state']}")
    return _code(agent, after["state"]) if wait else ExitCode.DONE


def _code(agent: str, state: str) -> ExitCode:
    if state not in ENDS:
        complain(f"{agent} has been told, but is still {state}")
    return ENDS.get(state, ExitCode.FAILED)


async def _until_gone(
    plane: ControlPlane, agent: str, before: dict[str, Any], timeout: float | None
) -> dict[str, Any]:
    """Poll until that life of the agent has ended, or time is up; return its last state."""
    loop = asyncio.get_running_loop()
    kept = before.get("timings") or UNTOLD.model_dump()
    patience = WAY_OUT + kept["heartbeat"] + kept["failed"]  # if it dies on its way
    deadline = loop.time() + (LONGEST if timeout is None else timeout) + patience
    seen = before
    with error_console().status(Text(shown(f"{agent} drains"))) as status:
        while seen["state"] not in ENDS and loop.time() < deadline:
            await asyncio.sleep(PERIOD)
            seen = await _look(plane, agent, seen)
            if is_another(before, seen):
                return {**seen, "state": "left"}  # and somebody has started it again
            status.update(Text(shown(f"{agent} drains: {seen['in_flight']} running")))
    return seen


def is_another(before: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """Tell whether another process has the id now, from two answers about an agent.

    A registry that was just started does not know the process yet, and one process may have several
    lives: while it drains it stays draining in all of them.
    """
    known = [key for key in PROCESS if before.get(key) and seen.get(key)]
    if "pid" in known:
        return any(before[key] != seen[key] for key in known)
    lives = {before.get("incarnation"), seen.get("incarnation")} - {None, ""}
    return len(lives) > 1 and seen["state"] == "active"


async def _look(plane: ControlPlane, agent: str, seen: dict[str, Any]) -> dict[str, Any]:
    """Ask for the agent; when a registry is being restarted, return the last known state."""
    try:
        return {**seen, **await ask_over(plane, "registry", "agent", {"id": agent})}
    except BrokerUnavailable:
        return seen
    except RequestFailed as error:
        # A registry that never heard it: it has left, and nobody speaks of it any more.
        return {**seen, "state": "left"} if error.code == UNKNOWN_AGENT else seen
