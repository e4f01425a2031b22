"""Errors of the SDK, and the closed set of codes that a result may carry."""

from typing import Any, Final

from maniple.open_enum import OpenEnum

MAX_MESSAGE = 1000


class ErrorCode(OpenEnum):
    """Why a task did not succeed. The set is closed: clients may branch on it.

    A cluster that is newer than this program may send a code that is not in it.
    """

    INVALID_TASK = "invalid_task"
    UNKNOWN_FIELD = "unknown_field"
    NOT_SUPPORTED = "not_supported"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNDECODABLE = "undecodable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    CIRCUIT_OPEN = "circuit_open"
    OVERLOADED = "overloaded"
    NO_AGENT = "no_agent"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    TIMEOUT = "timeout"
    HANDLER_ERROR = "handler_error"
    HANDLER_CRASHED = "handler_crashed"
    INVALID_OUTPUT = "invalid_output"
    AGENT_LOST = "agent_lost"
    CANCELLED = "cancelled"


BAD_INPUT: Final = frozenset(
    {
        ErrorCode.INVALID_TASK,
        ErrorCode.UNKNOWN_FIELD,
        ErrorCode.NOT_SUPPORTED,
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.UNDECODABLE,
        ErrorCode.UNAUTHORIZED,
        ErrorCode.FORBIDDEN,
        ErrorCode.DEADLINE_EXCEEDED,
    }
)
"""Codes of input that was never admitted; such a refusal is about a message, not about a task."""


class ManipleError(Exception):
    """Base of all errors that Maniple raises deliberately."""


class ConfigurationError(ManipleError):
    """A setting, handler or argument is wrong; the message names it and says what to do."""


class BrokerUnavailable(ManipleError):
    """RabbitMQ could not be reached, or did not confirm in time."""


class BrokerRefused(BrokerUnavailable):
    """RabbitMQ refused a login, vhost, right, message size, or TLS: retrying is of no use."""


class PublishRefused(ManipleError):
    """The broker refused a message: a queue is full (nack) or nothing is bound (returned).

    `unroutable` is true if nothing is bound.
    """

    def __init__(self, exchange: str, routing_key: str, *, unroutable: bool) -> None:
        """Describe which exchange and key refused, and how."""
        how = "nothing is bound to it" if unroutable else "a queue refused it"
        super().__init__(f"publish to {exchange or 'the default exchange'}/{routing_key}: {how}")
        self.exchange = exchange
        self.routing_key = routing_key
        self.unroutable = unroutable


class ProgressDropped(ManipleError):
    """A progress value that cannot be sent; the message says why."""


class InvalidMessage(ManipleError):
    """A message that Maniple does not accept; `code` is what its sender gets."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        detail: dict[str, Any] | None = None,
        body: bytes | None = None,
    ) -> None:
        """Set `code`, a sentence for people, `detail` for programs, and the bytes at fault.

        `body` is set for a bad member of an array: its own bytes.
        """
        # What a sender wrote may be quoted in it: a megabyte of it must not travel in a header.
        self.message = message[:MAX_MESSAGE]
        super().__init__(self.message)
        self.code = code
        self.detail = detail
        self.body = body


class RequestFailed(ManipleError):
    """A service answered a request with an error; `code` is its short name."""

    def __init__(self, code: str, message: str) -> None:
        """Set the service's code and its sentence."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class RequestTimeout(BrokerUnavailable):
    """No service answered a request in time."""


class TaskError(ManipleError):
    """A task ended without success.

    `code` is one of `ErrorCode`, `message` a sentence, `retry_after` seconds or None,
    `detail` any JSON object, `task_id` the task's id.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        task_id: str = "",
        retry_after: float | None = None,
        detail: Any = None,
    ) -> None:
        """Copy the fields of the result's `error`."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.task_id = task_id
        self.retry_after = retry_after
        self.detail = detail


class TaskFailed(TaskError):
    """The handler failed, or its agent was lost too often."""


class TaskRejected(TaskError):
    """The task was not admitted."""


class TaskExpired(TaskError):
    """The task's deadline passed before it ended."""


class TaskCancelled(TaskError):
    """The task was cancelled."""


class ResultTimeout(ManipleError, TimeoutError):
    """No result arrived within the caller's timeout; the task goes on."""
