"""The three capabilities that every agent offers besides its users' own, for operators.

Anybody who may publish may ask for them: so none takes long, or many slots.
"""

import asyncio
from typing import Any, Final

from maniple.errors import ErrorCode, InvalidMessage
from maniple.tasks import task

LONGEST_SLEEP: Final = 60.0
SLEEPS: Final = 16


@task("maniple.echo")
async def echo(payload: Any) -> Any:
    """Return the payload."""
    return payload


@task("maniple.sleep")
async def sleep(payload: Any) -> Any:
    """Sleep `{"seconds": 0.2}`, at most 60, and return the payload."""
    seconds = payload.get("seconds") if isinstance(payload, dict) else None
    if not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError('the payload must look like {"seconds": 0.2}')
    if seconds > LONGEST_SLEEP:
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"maniple.sleep sleeps at most {LONGEST_SLEEP:g} s"
        )
    await asyncio.sleep(seconds)
    return payload


@task("maniple.fail")
async def fail(payload: Any) -> Any:
    """Raise `{"message": "…"}`."""
    message = payload.get("message") if isinstance(payload, dict) else None
    raise RuntimeError(str(message or "asked to fail"))


HANDLERS = (echo, sleep, fail)
AT_ONCE: Final = {"maniple.sleep": SLEEPS}
"""How many may run in an agent; the others end as soon as they begin."""
