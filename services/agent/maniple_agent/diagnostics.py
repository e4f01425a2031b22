"""The three capabilities that every agent offers besides its users' own."""

import asyncio
from typing import Any

from maniple.tasks import task


@task("maniple.echo")
async def echo(payload: Any) -> Any:
    """Return the payload."""
    return payload


@task("maniple.sleep")
async def sleep(payload: Any) -> Any:
    """Sleep `{"seconds": 0.2}` and return the payload."""
    seconds = payload.get("seconds") if isinstance(payload, dict) else None
    if not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError('the payload must look like {"seconds": 0.2}')
    await asyncio.sleep(seconds)
    return payload


@task("maniple.fail")
async def fail(payload: Any) -> Any:
    """Raise `{"message": "…"}`."""
    message = payload.get("message") if isinstance(payload, dict) else None
    raise RuntimeError(str(message or "asked to fail"))


HANDLERS = (echo, sleep, fail)
