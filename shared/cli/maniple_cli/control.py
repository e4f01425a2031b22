"""Requests to the services, for commands."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import structlog

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.listing import all_agents

ANSWER_TIMEOUT = 5.0


@contextlib.asynccontextmanager
async def operator_plane(url: str) -> AsyncIterator[ControlPlane]:
    """Open a control plane for one command. Raises `BrokerUnavailable`."""
    # A command speaks in its own words; the connection's log lines would only be in the way.
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    async with ControlPlane(url, name=f"maniple-cli-{os.getpid()}", log=log) as plane:
        yield plane


async def ask_over(
    plane: ControlPlane,
    service: str,
    op: str,
    body: Mapping[str, Any] | None = None,
    timeout: float = ANSWER_TIMEOUT,
) -> dict[str, Any]:
    """Send a request over a plane and return the body of its answer; raises as `ask` does."""
    try:
        return await plane.request(service, op, body, timeout)
    except PublishRefused as error:
        raise BrokerUnavailable(f"no {service} is running: {error}") from error


async def ask(
    url: str,
    service: str,
    op: str,
    body: Mapping[str, Any] | None = None,
    timeout: float = ANSWER_TIMEOUT,
) -> dict[str, Any]:
    """Send one request and return the body of its answer.

    Raises `RequestFailed` with the service's code, `BrokerUnavailable` when the broker or the
    service cannot be reached.
    """
    async with contextlib.AsyncExitStack() as stack:
        plane = await stack.enter_async_context(operator_plane(url))
        return await ask_over(plane, service, op, body, timeout)


async def ask_for_agents(url: str) -> dict[str, Any]:
    """Return all `agents`, and whether the registries are `hearing`; raises as `ask` does."""
    async with contextlib.AsyncExitStack() as stack:
        plane = await stack.enter_async_context(operator_plane(url))
        return await all_agents(partial(ask_over, plane, "registry", "agents"))
