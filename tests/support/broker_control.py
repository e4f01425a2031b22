"""Doing to a broker what only its operators can."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple.local import programs
from maniple.local.child import Child
from maniple.local.rabbitmq import RabbitMQServer


def broker_of(rabbitmq: RabbitMQServer) -> Child:
    """Return the broker's own process."""
    (broker,) = [child for child in rabbitmq.children if child.spec.name == "rabbitmq"]
    return broker


async def control(broker: Child, *arguments: str) -> None:
    """Run `rabbitmqctl`."""
    assert broker.spec.name == "rabbitmq"
    program = programs.rabbitmq_server().with_name("rabbitmqctl")
    process = await asyncio.create_subprocess_exec(
        str(program), "--quiet", *arguments, env=dict(broker.spec.env) | {"PATH": "/usr/bin:/bin"}
    )
    assert await process.wait() == 0


@asynccontextmanager
async def suspended(broker: Child, environment: str, queue: str) -> AsyncIterator[None]:
    """Have a quorum queue confirm nothing, as one does that has lost its leader."""
    leader = f"whereis('{environment}_{queue}')"
    await control(broker, "eval", f"sys:suspend({leader}).")
    try:
        yield
    finally:
        await control(broker, "eval", f"sys:resume({leader}).")
