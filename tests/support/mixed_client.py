"""What a program does with the SDK of its own release; prints how its tasks ended.

Run with the broker's URL and a prefix for the ids. It uses nothing that is new.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from msgspec import Raw

from maniple import connect
from maniple.messages import Task

COUNT = 20


def tasks(prefix: str) -> list[Task]:
    """Return tasks that succeed, one that is refused among them, and one that fails."""
    past = datetime.now(UTC) - timedelta(hours=1)
    wanted = [
        Task(capability="maniple.echo", payload=Raw(b"%d" % number), id=f"{prefix}-{number}")
        for number in range(COUNT)
    ]
    wanted.insert(COUNT // 2, Task(capability="maniple.echo", deadline=past, id=f"{prefix}-late"))
    failing = Raw(b'{"message":"no"}')
    wanted.append(Task(capability="maniple.fail", payload=failing, id=f"{prefix}-fails"))
    return wanted


async def main(url: str, prefix: str) -> None:
    """Submit, and print."""
    ends: dict[str, Any] = {}
    async with connect(url) as client:
        async for result in client.outcomes(tasks(prefix)):
            name = result.id.removeprefix(f"{prefix}-")
            ends[name] = [str(result.status), result.error and str(result.error.code)]
    newer = find_spec("maniple.open_enum") is not None
    sys.stdout.write(json.dumps({"newer": newer, "ends": ends}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
