"""Handlers of one flood and of its neighbours: what takes long, and what takes no time."""

import asyncio
import time
from typing import Any

from maniple import task


@task("flood.sleep")
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@task("flood.block")
def block(seconds: float) -> None:
    time.sleep(seconds)


@task("flood.quick")
async def quick(payload: Any) -> Any:
    return payload


@task("flood.plain")
def plain(payload: Any) -> Any:
    return payload
