"""The tasks of a client that have not ended yet: what it holds for each, and gives them results."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from maniple.causes import lines_of
from maniple.client.progress import ProgressFeed
from maniple.client.refusals import PERHAPS_REFUSED, ended_by, is_of
from maniple.client.submission import end_span
from maniple.codec import decode_value, peek_identity
from maniple.errors import (
    ConfigurationError,
    ErrorCode,
    InvalidMessage,
    ManipleError,
    ResultTimeout,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRejected,
)
from maniple.messages import Failure, Progress, Result, Status

_ERRORS: dict[Status, type[TaskError]] = {
    Status.FAILED: TaskFailed,
    Status.REJECTED: TaskRejected,
    Status.EXPIRED: TaskExpired,
    Status.CANCELLED: TaskCancelled,
}
_log = logging.getLogger(__name__)
_NO_REASON = Failure(code=ErrorCode.HANDLER_ERROR, message="no reason given")


def error_of(result: Result) -> TaskError | None:
    """Return the error that a result stands for, None if the task succeeded.

    What is behind it, as far as its `detail` tells, are its notes.
    """
    if result.status is Status.SUCCEEDED:
        return None
    kind = _ERRORS.get(result.status, TaskError)  # a newer cluster may have one more
    failure = result.error or _NO_REASON
    error = kind(
        failure.code,
        failure.message,
        task_id=result.id,
        retry_after=failure.retry_after,
        detail=failure.detail,
    )
    for line in lines_of(failure.detail):
        error.add_note(line)
    return error


def check_loop(made_on: asyncio.AbstractEventLoop, what: str) -> None:
    """Raise `ConfigurationError` for what is used from another event loop than its own.

    Its futures would never wake anybody there, and its connection would be written to from two
    threads.
    """
    try:
        present = asyncio.get_running_loop()
    except RuntimeError:
        present = None
    if present is not made_on:
        raise ConfigurationError(
            f"{what} belongs to the event loop on which it was made: make another one here, or use "
            "asyncio.run_coroutine_threadsafe"
        )


class Ticket(ABC):
    """One outstanding task: its bytes, and what is to happen as it goes on.

    All methods are called on the client's loop, must not block and must not raise.
    """

    __slots__ = ("body", "capability", "id", "life", "message_id", "repeated", "span", "tenant")

    def __init__(self, task_id: str, tenant: str, capability: str, body: bytes) -> None:
        """Describe a task whose bytes are `body`."""
        self.id = task_id
        self.tenant = tenant
        self.capability = capability
        self.body = body
        self.message_id = ""
        self.repeated = False
        """Whether it may have been submitted before."""
        self.life = 0
        """Of the reply queue to which the result goes, once the broker has confirmed the task."""
        self.span: Any = None
        """Of its submission, if that is traced."""

    def sent(self, error: ManipleError | None) -> None:
        """End the span of its submission, and say that it is `confirmed`."""
        self.end_span(error)
        self.confirmed(error)

    def end_span(self, error: Exception | None) -> None:
        """End the span of its submission, unless it has none or that has ended."""
        if self.span is not None:
            end_span(self.span, error)
            self.span = None

    @abstractmethod
    def confirmed(self, error: ManipleError | None) -> None:
        """The broker has taken the task, or `error` says why not."""

    @abstractmethod
    def settle_with(self, result: Result) -> None:
        """The task has ended."""

    @abstractmethod
    def abandon(self, error: ManipleError) -> None:
        """No result will ever be heard here."""

    def report_progress(self, progress: Progress) -> None:  # noqa: B027 - most do not listen to it
        """The task's handler reported progress."""


class TaskHandle(Ticket):
    """A submitted task. `id` is its identity, together with `tenant`."""

    __slots__ = ("_done", "_error", "_loop", "_progress", "_result", "_sent")

    def __init__(self, task_id: str, tenant: str, capability: str, body: bytes) -> None:
        """Describe a task; `Client.submit` makes handles."""
        super().__init__(task_id, tenant, capability, body)
        self._loop = asyncio.get_running_loop()
        self._result: Result | None = None
        self._error: ManipleError | None = None
        self._sent: asyncio.Future[None] | None = None
        self._done: asyncio.Event | None = None
        self._progress: ProgressFeed | None = None

    def __repr__(self) -> str:
        state = self._result.status if self._result else "outstanding"
        return f"<TaskHandle {self.capability} {self.id} {state}>"

    @property
    def done(self) -> bool:
        """Whether the task has ended, so that `result` returns at once."""
        return self._result is not None or self._error is not None

    async def outcome(self, timeout: float | None = None) -> Result:
        """Return the whole result, whatever its status; its `output` is still encoded.

        Raises `ResultTimeout` after `timeout` seconds (the task goes on), and `ManipleError` when
        the client was closed, or lost the queue on which the result would come.
        """
        if not self.done:
            check_loop(self._loop, "a task's handle")
            if self._done is None:
                self._done = asyncio.Event()
            try:
                async with asyncio.timeout(timeout):
                    await self._done.wait()
            except TimeoutError as error:
                raise ResultTimeout(
                    f"no result of {self.capability} {self.id} within {timeout:g} s"
                ) from error
        if self._result is None:
            raise self._error or ManipleError("no result")
        return self._result

    async def result(self, timeout: float | None = None) -> Any:
        """Return what the handler returned.

        Raises `TaskFailed`, `TaskRejected`, `TaskExpired` or `TaskCancelled` (all `TaskError`, with
        `code`, `message`, `retry_after` in seconds and `detail`), else as `outcome`.
        """
        result = await self.outcome(timeout)
        if error := error_of(result):
            raise error
        return decode_value(result.output)

    async def progress(self) -> AsyncIterator[Any]:
        """Iterate over what the handler reports, the latest report first, until the task ends."""
        check_loop(self._loop, "a task's handle")
        with self._feed().listening() as listener:
            if self.done:
                listener.end()
            while (report := await listener.next_report()) is not None:
                yield decode_value(report.value)

    async def wait_sent(self) -> None:
        """Return when the broker has confirmed. Raises what `confirmed` was told."""
        self._sent = asyncio.get_running_loop().create_future()
        await self._sent

    def confirmed(self, error: ManipleError | None) -> None:
        """See `Ticket`."""
        self.body = b""
        if self._sent is None or self._sent.done():
            return
        if error is None:
            self._sent.set_result(None)
        else:
            self._sent.set_exception(error)

    def settle_with(self, result: Result) -> None:
        """See `Ticket`."""
        self._result = result
        self._ended()

    def abandon(self, error: ManipleError) -> None:
        """See `Ticket`."""
        self._error = error
        self._ended()

    def report_progress(self, progress: Progress) -> None:
        """See `Ticket`."""
        self._feed().add_report(progress)

    def _feed(self) -> ProgressFeed:
        if self._progress is None:
            self._progress = ProgressFeed()
        return self._progress

    def _ended(self) -> None:
        if self._done is not None:
            self._done.set()
        if self._progress is not None:
            self._progress.end_reports()


class OutstandingHandles:
    """Gives each result to whoever waits for it; a second result of a task is ignored."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tickets: dict[tuple[str, str], Ticket] = {}

    def __len__(self) -> int:
        """How many tasks have not ended yet."""
        return len(self._tickets)

    def add_ticket(self, ticket: Ticket) -> None:
        """Add a task. Raises `InvalidMessage` if one of the same identity is outstanding."""
        key = (ticket.tenant, ticket.id)
        if key in self._tickets:
            raise InvalidMessage(
                ErrorCode.INVALID_TASK,
                f"task {ticket.id!r} is already outstanding in this client",
                detail={"id": ticket.id},
            )
        self._tickets[key] = ticket

    def discard(self, ticket: Ticket) -> None:
        """Forget a task, if it is still this ticket's."""
        key = (ticket.tenant, ticket.id)
        if self._tickets.get(key) is ticket:
            del self._tickets[key]

    def discard_where(self, forget: Callable[[Ticket], bool]) -> None:
        """Forget the tasks for which `forget` holds."""
        for ticket in [t for t in self._tickets.values() if forget(t)]:
            self.discard(ticket)

    def settle_results(self, results: Iterable[Result | InvalidMessage]) -> None:
        """Hand on results; whose cannot be read hears of that."""
        take = self._tickets.pop
        for result in results:
            if isinstance(result, InvalidMessage):
                self._give_up(result)
                continue
            if result.error is not None and result.status in PERHAPS_REFUSED:
                for refused, end in ended_by(result, self._tickets):
                    self.discard(refused)
                    refused.settle_with(end)
                continue
            ticket = take((result.tenant, result.id), None)
            if ticket is None:
                continue
            if result.capability == ticket.capability or is_of(ticket, result):
                ticket.settle_with(result)
            else:
                self._tickets[result.tenant, result.id] = ticket

    def report_all(self, reports: Iterable[Progress]) -> None:
        """Hand on progress."""
        for progress in reports:
            ticket = self._tickets.get((progress.tenant, progress.id))
            if ticket is not None:
                ticket.report_progress(progress)

    def abandon_where(
        self, error: ManipleError, where: Callable[[Ticket], bool] = lambda _: True
    ) -> None:
        """Give up all tasks for which `where` holds."""
        for ticket in [t for t in self._tickets.values() if where(t)]:
            self.discard(ticket)
            ticket.abandon(error)

    def _give_up(self, unreadable: InvalidMessage) -> None:
        _log.warning("a result that cannot be read: %s", unreadable)
        known = peek_identity(unreadable.body or b"")
        ticket = self._tickets.get((known.tenant, known.id or ""))
        if ticket is not None:
            self.discard(ticket)
            ticket.abandon(
                ManipleError(f"the task has ended, but its result cannot be read: {unreadable}")
            )
