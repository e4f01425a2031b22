"""Requests between processes: matching answers to requests, and where answers may go."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, PrivateAttr, ValidationError
from structlog.typing import FilteringBoundLogger

from maniple.errors import BrokerUnavailable, RequestFailed, RequestTimeout
from maniple.topology import REPLY_PREFIX, RESERVED_PREFIX
from maniple_runtime.control.amqp_messages import IncomingMessage
from maniple_runtime.control.messages import Request, RequestFailure, Response

Answer = Mapping[str, Any] | BaseModel | bytes
"""A JSON object, or a model; as bytes it is already encoded."""


class Asked(Request):
    """A request that has arrived.

    It arrives again when the connection is lost before it is acknowledged, also while the operation
    runs or afterwards: an operation that must not run twice remembers its `identity`.
    """

    _identity: str = PrivateAttr(default="")
    _may_repeat: bool = PrivateAttr(default=False)

    @property
    def identity(self) -> str:
        """See `IncomingMessage`."""
        return self._identity

    @property
    def may_repeat(self) -> bool:
        """See `IncomingMessage`; if false, the same identity belonged to another request."""
        return self._may_repeat

    @classmethod
    def of_message(cls, arrival: IncomingMessage) -> Self:
        """Read a request; raises `ValueError`."""
        asked = cls.from_json(arrival.body)
        asked._set(arrival)  # noqa: SLF001 - of our own class
        return asked

    def _set(self, arrival: IncomingMessage) -> None:
        self._identity, self._may_repeat = arrival.identity, arrival.may_repeat


Responder = Callable[[Asked], Awaitable[Answer]]


def failed(code: str, message: str) -> Response:
    """Return the response for a failed request."""
    return Response(error=RequestFailure(code=code, message=message))


def may_answer(reply_to: str | None) -> bool:
    """Tell whether an answer may be sent to an address; of Maniple's queues only to reply queues.

    Direct reply-to addresses (`amq.rabbitmq.reply-to.…`) are allowed.
    """
    if not reply_to:
        return False
    return not reply_to.startswith(RESERVED_PREFIX) or reply_to.startswith(REPLY_PREFIX)


async def answer(
    operations: Mapping[str, Responder], arrival: IncomingMessage, log: FilteringBoundLogger
) -> bytes:
    """Run the operation that a request names; return the body of the response.

    Every error becomes a response too, with the code `invalid_request`, `unknown_op`, `internal`,
    or that of a `RequestFailed`.
    """
    try:
        request = Asked.of_message(arrival)
    except ValueError as error:
        return _failure("invalid_request", str(error))
    operation = operations.get(request.op)
    if operation is None:
        return _failure(
            "unknown_op", f"no operation {request.op!r}; there is: {sorted(operations)}"
        )
    try:
        # Here: what cannot be written is the operation's fault, not the sender's.
        return _written(await operation(request))
    except RequestFailed as error:
        return _failure(error.code, error.message)
    except ValidationError as error:
        return _failure("invalid_request", str(error))
    except Exception as error:
        log.exception("request failed", op=request.op)
        return _failure("internal", f"{type(error).__name__}: {error}")


def _written(result: Answer) -> bytes:
    if isinstance(result, bytes):
        return b'{"body":' + result + b"}"
    plain = result.model_dump(mode="json") if isinstance(result, BaseModel) else dict(result)
    return Response(body=plain).to_json()


def _failure(code: str, message: str) -> bytes:
    return failed(code, message).to_json()


class Correlation:
    """Requests without a response yet, by correlation id."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.Future[bytes]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def open_request(self, correlation_id: str) -> asyncio.Future[bytes]:
        """Start waiting for the response with this id."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[correlation_id] = future
        future.add_done_callback(lambda done: self._forget(correlation_id, done))
        return future

    def _forget(self, correlation_id: str, future: asyncio.Future[bytes]) -> None:
        self._pending.pop(correlation_id, None)
        if not future.cancelled():
            future.exception()  # who gave up before it came must not leave a complaint behind

    def settle_request(self, correlation_id: str | None, body: bytes) -> bool:
        """Pass a response to its request; False if there is none (any more)."""
        future = self._pending.pop(correlation_id or "", None)
        if future is None or future.done():
            return False
        future.set_result(body)
        return True

    def fail_all(self, reason: str) -> None:
        """Fail all requests with `BrokerUnavailable`: their responses are lost."""
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(BrokerUnavailable(reason))

    @staticmethod
    def read(body: bytes) -> dict[str, Any]:
        """Return the body of a response, or raise the `RequestFailed` that it carries."""
        try:
            response = Response.from_json(body)
        except ValueError as error:
            raise RequestFailed("invalid_response", str(error)) from error
        if response.error is not None:
            raise RequestFailed(response.error.code, response.error.message)
        return response.body


def timed_out(service: str, op: str, timeout: float) -> RequestTimeout:
    """Return the error of a request without a response."""
    return RequestTimeout(f"{service} did not answer {op!r} within {timeout:g} s")
