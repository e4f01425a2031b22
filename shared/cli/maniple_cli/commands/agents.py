"""`maniple agents`: the agents, as a registry sees them."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from maniple_cli.control import ask_for_agents
from maniple_cli.output import (
    BrokerOption,
    ExitCode,
    JsonOption,
    cells,
    complain,
    operator_url,
    print_json,
    run,
)
from maniple_cli.tables import print_table

COLUMNS = ("agent", "state", "host", "running", "slots", "heard", "doubts", "capabilities")

DEAF = "the registry hears no heartbeats now: what it shows is what it heard last"


def agents(*, as_json: JsonOption = False, broker_url: BrokerOption = None) -> None:
    """List the agents with their state."""
    run(_agents(broker_url, as_json=as_json))


async def _agents(broker_url: str | None, *, as_json: bool) -> ExitCode:
    answer = await ask_for_agents(operator_url(broker_url))
    found = answer["agents"]
    if not answer["hearing"]:
        complain(DEAF)
    if as_json:
        print_json(found)
    elif not found:
        complain("no agents are registered; start one with 'python -m maniple_agent'")
    else:
        table = Table(*COLUMNS, box=None, pad_edge=False)
        for agent in found:
            table.add_row(*cells(*_row(agent)))
        print_table(table)
    return ExitCode.DONE


def _row(agent: Mapping[str, Any]) -> tuple[str, ...]:
    age = agent.get("heartbeat_age")
    return (
        str(agent.get("agent", "")),
        str(agent.get("state", "")),
        str(agent.get("host", "")),
        str(agent.get("in_flight", "")),
        str(agent.get("slots", "")),
        "" if age is None else f"{age:.1f} s ago",
        ", ".join(agent.get("doubts") or ()),
        " ".join(agent.get("capabilities") or ()),
    )
