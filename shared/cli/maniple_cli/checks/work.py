"""Whether work gets done: the agents as a registry sees them, and one task from end to end."""

import asyncio
from collections.abc import Mapping
from typing import Any

from maniple.client import connect
from maniple.errors import BrokerUnavailable, ManipleError
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.control import ask_for_agents

ECHO_TIMEOUT = 10.0
ACTIVE, AILING = "active", ("unreachable", "failed")


async def membership(places: Places) -> Finding:
    """Ask a registry for the agents."""
    try:
        return members(await ask_for_agents(places.broker))
    except ManipleError as error:
        return Finding("membership", CheckVerdict.FAILED, str(error), "start a registry")


def members(told: Mapping[str, Any]) -> Finding:
    """Judge a registry's answer about the agents."""
    agents = told.get("agents", [])
    states = {str(one.get("agent")): str(one.get("state", "")).lower() for one in agents}
    active = [agent for agent, state in states.items() if state == ACTIVE]
    found = f"{len(active)} of {len(agents)} agents are active"
    if not told.get("hearing", True):
        advice = "look at the health of the broker and at the registry's log"
        return Finding("membership", CheckVerdict.FAILED, "a registry hears no heartbeats", advice)
    if not active:
        return Finding("membership", CheckVerdict.FAILED, found, "start an agent")
    ailing = [f"{agent} is {state}" for agent, state in states.items() if state in AILING]
    if ailing:
        advice = "look at their logs; one that has failed is forgotten after ten minutes"
        return Finding("membership", CheckVerdict.WARNING, "; ".join([found, *ailing]), advice)
    return Finding("membership", CheckVerdict.OK, found)


async def echo(places: Places) -> Finding:
    """Run a task through the whole cluster. Raises `BrokerUnavailable`."""
    clock = asyncio.get_running_loop().time
    try:
        async with connect(places.broker) as client:
            started = clock()
            handle = await client.submit("maniple.echo", {"doctor": True}, ttl=ECHO_TIMEOUT)
            output = await handle.result(ECHO_TIMEOUT)
    except BrokerUnavailable:
        raise
    except ManipleError as error:
        advice = "start a dispatcher and an agent, or look at their logs"
        return Finding("echo task", CheckVerdict.FAILED, str(error), advice)
    if output != {"doctor": True}:
        return Finding(
            "echo task", CheckVerdict.FAILED, f"came back as {output!r}", "check the agents"
        )
    return Finding(
        "echo task", CheckVerdict.OK, f"there and back in {(clock() - started) * 1e3:.0f} ms"
    )
