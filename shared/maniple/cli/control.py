"""Asking the services, for commands."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import structlog

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.service.broker import ControlPlane

ANSWER_TIMEOUT = 5.0


async def ask(
    url: str, service: str, op: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Ask a service once and return the body of its answer.

    Raises `RequestFailed` with the service's code, `BrokerUnavailable` when the broker or the
    service cannot be reached.
    """
    # A command speaks in its own words; the connection's log lines would only be in the way.
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    name = f"maniple-cli-{os.getpid()}"
    async with contextlib.AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane(url, name=name, log=log))
        try:
            return await plane.request(service, op, body, ANSWER_TIMEOUT)
        except PublishRefused as error:
            raise BrokerUnavailable(f"no {service} is running: {error}") from error
