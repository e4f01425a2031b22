"""Handlers that inspect their surroundings: what they can read, whether they may submit tasks."""

import os
import subprocess
import sys
from typing import Any

from maniple import task
from maniple.client import connect

LOOK = "import json, os; print(json.dumps(dict(os.environ)))"


def seen() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.upper().startswith("MANIPLE_")}


@task("curious.thread")
def in_a_thread(_payload: Any) -> list[Any]:
    return [seen(), sys.argv[1:]]


@task("curious.process", executor="process")
def in_a_process(_payload: Any) -> list[Any]:
    return [seen(), []]


@task("curious.child")
def in_a_child(_payload: Any) -> str:
    looking = [sys.executable, "-c", LOOK]
    return subprocess.run(looking, capture_output=True, check=True, text=True).stdout


@task("curious.nested")
async def nested(payload: Any) -> Any:
    async with connect() as client:
        return await (await client.submit("maniple.echo", payload)).result()
