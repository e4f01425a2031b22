"""Asking services: one queue for all answers, and who waits for which of them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from maniple.identifiers import new_id
from maniple.topology import REPLY_PREFIX, REQUESTS
from maniple_runtime.control.amqp_messages import IncomingMessage, OutgoingMessage
from maniple_runtime.control.connection import ControlConnection
from maniple_runtime.control.dispatch import ControlDispatch
from maniple_runtime.control.messages import Request
from maniple_runtime.control.requests import Correlation, timed_out


class RequestClient:
    """Sends requests over a connection; the queue of the answers begins with the first of them."""

    def __init__(self, connection: ControlConnection, handlers: ControlDispatch, name: str) -> None:
        """Ask over `connection`, whose name is `name`."""
        self._connection = connection
        self._handlers = handlers
        self._name = name
        self._replies: Callable[[], str] | None = None
        self._reply_lock = asyncio.Lock()
        self._waiting = Correlation()

    def fail_waiting(self, reason: str) -> None:
        """Fail all requests that wait: their answers are lost."""
        self._waiting.fail_all(reason)

    async def ask_service(
        self, service: str, op: str, body: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        """Return the body of the answer; raises as `ControlPlane.request` does."""
        question = Request(op=op, body=dict(body))
        try:
            async with asyncio.timeout(timeout):
                await self._connection.wait_up()  # or the answer's queue is of an earlier life
                message = OutgoingMessage(
                    exchange=REQUESTS,
                    key=service,
                    body=question.to_json(),
                    type=question.TYPE,
                    message_id=new_id(),
                    correlation_id=new_id(),
                    reply_to=await self._reply_queue(),
                    repeated=False,  # not every service remembers what it has done
                )
                return await self._answer_to(message, timeout)
        except TimeoutError as error:
            raise timed_out(service, op, timeout) from error

    async def _answer_to(self, message: OutgoingMessage, timeout: float) -> dict[str, Any]:
        future = self._waiting.open_request(message.correlation_id or "")
        try:
            await self._connection.send_message(message, timeout)
            return self._waiting.read(await future)
        finally:
            future.cancel()

    async def _reply_queue(self) -> str:
        if self._replies is None:
            await self._handlers.owned(self._open_replies())
        assert self._replies is not None  # noqa: S101 - or it has raised
        return self._replies()

    async def _open_replies(self) -> None:
        async with self._reply_lock:
            if self._replies is None:
                purpose = f"{REPLY_PREFIX}{self._name}"
                self._replies = await self._connection.listen(purpose, self._settle, None, ())

    async def _settle(self, arrival: IncomingMessage) -> None:
        self._waiting.settle_request(
            arrival.correlation_id, arrival.body
        )  # False: it came too late
