"""`control.request_client`: who waits for an answer that is lost is told so, at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from maniple.errors import BrokerUnavailable
from maniple_runtime.control.amqp_messages import OutgoingMessage
from maniple_runtime.control.request_client import RequestClient
from waiting import wait_until


class Silent:
    """A connection over which nobody answers, and what its handlers run on."""

    def __init__(self) -> None:
        self.sent: list[OutgoingMessage] = []
        self.queues = 0

    async def wait_up(self) -> None: ...

    async def send_message(self, message: OutgoingMessage, _timeout: float) -> None:
        self.sent.append(message)

    async def listen(self, *_: object) -> Any:
        self.queues += 1
        return lambda: "the queue of the answers"

    async def owned(self, work: Coroutine[Any, Any, None]) -> None:
        await work


async def test_who_waits_for_an_answer_is_told_when_the_connection_is_lost() -> None:
    silent: Any = Silent()
    client = RequestClient(silent, silent, "one")
    asking = [
        asyncio.create_task(client.ask_service("registry", "agents", {}, 60.0)) for _ in range(2)
    ]
    await wait_until(lambda: len(silent.sent) == len(asking))
    client.fail_waiting("the connection was lost")
    for one in asking:
        with pytest.raises(BrokerUnavailable, match="the connection was lost"):
            await one
    assert silent.queues == 1
    assert {message.repeated for message in silent.sent} == {False}
