"""A client, or a handle, that is used from another event loop than its own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from maniple import Client, ConfigurationError, TaskHandle, task
from maniple.testing import cluster

Use = Callable[[Client, TaskHandle], Coroutine[Any, Any, Any]]


@task("test.echo")
async def echo(payload: Any) -> Any:
    return payload


@task("test.wait")
async def wait(payload: float) -> None:
    await asyncio.sleep(payload)


async def _map(client: Client, _: TaskHandle) -> None:
    async for _one in client.map("test.echo", [1]):
        pass


async def _progress(_: Client, handle: TaskHandle) -> None:
    async for _one in handle.progress():
        pass


async def _forget(client: Client, handle: TaskHandle) -> None:
    client.forget(handle)


@pytest.mark.parametrize(
    "use",
    [
        lambda client, _: client.submit("test.echo", 1),
        lambda client, _: client.close(),
        lambda _, handle: handle.result(),
        _map,
        _progress,
        _forget,
    ],
    ids=["submit", "close", "result", "map", "progress", "forget"],
)
async def test_it_is_refused_and_goes_on_where_it_was_made(use: Use) -> None:
    async with cluster(echo, wait) as client:
        handle = await client.submit("test.wait", 0.2)
        with pytest.raises(ConfigurationError, match="another one here"):
            await asyncio.to_thread(lambda: asyncio.run(use(client, handle)))
        assert await handle.result() is None
        assert await (await client.submit("test.echo", 1)).result() == 1


async def test_what_has_ended_can_be_read_anywhere() -> None:
    async with cluster(echo) as client:
        handle = await client.submit("test.echo", 1)
        await handle.result()
        assert await asyncio.to_thread(lambda: asyncio.run(handle.result())) == 1
