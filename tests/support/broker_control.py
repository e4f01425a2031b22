"""Doing to a broker what only its operators can."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import faults
from maniple.local import programs
from maniple.local.child import Child
from maniple.local.rabbitmq import RabbitMQServer


def broker_of(rabbitmq: RabbitMQServer) -> Child:
    """Return the broker's own process."""
    (broker,) = [child for child in rabbitmq.children if child.spec.name == "rabbitmq"]
    return broker


# In the broker's own language: close the connections of a name, and return how many there were.
_CLOSE = """
  Owned = [P || [{{pid, P}}, {{client_properties, C}}]
             <- rabbit_networking:connection_info_all([pid, client_properties]),
             {{_, longstr, N}} <- [lists:keyfind(<<"connection_name">>, 1, C)],
             N =:= <<"{name}">>],
  [rabbit_networking:close_connection(P, "by a test") || P <- Owned], length(Owned).
"""


async def control(broker: Child, *arguments: str) -> str:
    """Run `rabbitmqctl` and return its output."""
    assert broker.spec.name == "rabbitmq"
    program = programs.rabbitmq_server().with_name("rabbitmqctl")
    process = await asyncio.create_subprocess_exec(
        str(program),
        *("--quiet", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=dict(broker.spec.env) | {"PATH": "/usr/bin:/bin"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def close_connection(broker: Child, name: str) -> int:
    """Have the broker close the connections of a name; return how many there were.

    The management API shows a connection some seconds after it was opened; the broker knows it at
    once.
    """
    return int(await control(broker, "eval", _CLOSE.format(name=name)))


async def consumers(broker: Child, environment: str) -> Counter[str]:
    """Return how many consumers each queue has, as `faults.consumers` does."""
    return await faults.consumers(_Commanded(broker), environment)


class _Commanded:
    def __init__(self, broker: Child) -> None:
        self._broker = broker

    async def control(self, *arguments: str) -> str:
        return await control(self._broker, *arguments)


@asynccontextmanager
async def suspended(broker: Child, environment: str, queue: str) -> AsyncIterator[None]:
    """Have a quorum queue confirm nothing, as one does that has lost its leader."""
    leader = f"whereis('{environment}_{queue}')"
    await control(broker, "eval", f"sys:suspend({leader}).")
    try:
        yield
    finally:
        await control(broker, "eval", f"sys:resume({leader}).")
