"""The registry's answers about all of its agents: page by page, each written in one short step.

A page is short enough to be written between two heartbeats, and for every broker. A client that
asks for no page is an older release, and gets all agents at once as long as a broker accepts the
answer.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from maniple.errors import RequestFailed
from maniple_registry.domain.agent_record import AgentRecord
from maniple_registry.domain.agents import Agents

PAGE_AGENTS: Final = 200
PAGE_BYTES: Final = 256 * 1024
AGENT_BYTES: Final = 4 * 1024**2
"""Limit for one agent; a longer description is left out, or no agent could be shown."""
WHOLE_BYTES: Final = 8 * 1024**2
"""Limit for an answer without pages; RabbitMQ 4 accepts 16 MiB."""

UNLIKE: Final = 4
"""Factor by which the agents of the first page may be larger than the others."""

Write = Callable[[AgentRecord], bytes]


def after(body: Mapping[str, Any]) -> str | None:
    """Return the agent after which a page starts; None without pages. Raises `RequestFailed`."""
    place = body.get("after")
    if place is not None and not isinstance(place, str):
        raise RequestFailed("invalid_request", "'after' is the id of an agent, or empty")
    return place


def page(fleet: Agents, place: str, write: Write) -> tuple[list[bytes], str]:
    """Write the agents that follow `place`; return them, and the last one if there are more."""
    records = fleet.following(place, PAGE_AGENTS + 1)
    written: list[bytes] = []
    size = 0
    for record in records[:PAGE_AGENTS]:
        one = write(record)
        size += len(one)
        if written and size > PAGE_BYTES:
            break
        written.append(one)
    return written, records[len(written) - 1].agent if len(records) > len(written) else ""


async def whole(fleet: Agents, write: Write) -> list[bytes]:
    """Write all agents, yielding to the loop each page; raises `RequestFailed` for too many."""
    written, place = page(fleet, "", write)
    # By the first ones: who is refused may ask again every second. They may be unlike the others.
    _check(sum(map(len, written)) * fleet.size / max(1, len(written)) / UNLIKE)
    while place:
        await asyncio.sleep(0)
        more, place = page(fleet, place, write)
        written += more
        _check(sum(map(len, written)))
    return written


def _check(size: float) -> None:
    if size > WHOLE_BYTES:
        raise RequestFailed("too_large", "too many agents for one answer: ask page by page")


def answer(written: list[bytes], *, hearing: bool, following: str) -> bytes:
    """Return the body of an answer; `following` is where the next page starts, if there is one."""
    rest = msgspec.json.encode({"hearing": hearing, "next": following or None})
    return b'{"agents":[' + b",".join(written) + b"]," + rest[1:]
