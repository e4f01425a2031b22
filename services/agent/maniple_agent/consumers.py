"""Every input of an agent but the queues of its lanes, and what takes it.

Which queues those are follows from its handlers, and how much of each from what they take: see
`lane_consumers.py`, which hands all of them to `Ingress.on_bundle`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from maniple.topology import CONTROL
from maniple_agent.commands import AgentCommands
from maniple_runtime.consumers import Consumers, FromExchange
from maniple_runtime.control.messages import Announce, Command, Drain, Reconnect, Retire, Time


def consumers_of(commands: AgentCommands, keys: Sequence[str]) -> Consumers:
    """Return which command, by which of its routing keys, goes to whom."""
    table: dict[type[Command], Callable[[Any], None]] = {
        Announce: commands.announce,
        Drain: commands.on_drain,
        Retire: commands.retire,
        Reconnect: commands.rebuild,
        Time: commands.hear,
    }

    def on_command(command: Command) -> None:
        table[type(command)](command)

    return Consumers(messages=(FromExchange(CONTROL, tuple(keys), tuple(table), on_command),))
