"""The client itself, whatever carries its tasks."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Any, TypeVar, Unpack

from msgspec.structs import replace

from maniple.client.flow import Carrier, Flow, Slot
from maniple.client.handle import OutstandingHandles, TaskHandle, Ticket, check_loop, error_of
from maniple.client.submission import (
    SubmitOptions,
    SubmitSpans,
    check_task,
    encode_payload,
    encode_task,
    end_span,
    make_task,
)
from maniple.codec import decode_value
from maniple.errors import (
    ConfigurationError,
    ErrorCode,
    InvalidMessage,
    ManipleError,
    PublishRefused,
)
from maniple.identifiers import new_id, refusal_id
from maniple.messages import NULL, Failure, Result, Status, Task

T = TypeVar("T")
K = TypeVar("K", bound=Ticket)

WINDOW = 2000


class Client:
    """Submits tasks and hears how they end; made by `maniple.connect` or `maniple.testing.cluster`.

    Belongs to the event loop on which it was made; from another one it raises `ConfigurationError`,
    and nothing happens to it. Submissions made close together share a message.
    """

    def __init__(
        self,
        carrier: Carrier,
        outstanding: OutstandingHandles,
        *,
        tenant: str,
        submitting: SubmitSpans | None = None,
    ) -> None:
        """Send through `carrier`, which tells `outstanding` what becomes of the tasks."""
        self._submitting = submitting or SubmitSpans()
        self._carrier = carrier
        self._outstanding = outstanding
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.tenant = tenant

    @property
    def outstanding(self) -> int:
        """How many tasks were submitted here and have not ended yet."""
        return len(self._outstanding)

    async def submit(
        self,
        capability: str,
        payload: Any = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name
        repeated: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle:
        """Submit a task and return once the broker has confirmed it: from then on it is not lost.

        `payload` is any JSON value; `id` defaults to a new UUIDv7. Raises `InvalidMessage` for what
        the dispatcher would refuse and for an option that there is not, before anything is sent,
        `PublishRefused` when the broker is full, and `BrokerUnavailable` when it does not confirm
        in time: the task may then run nevertheless, so submit it again under the same `id`, as
        `repeated`: then no policy ends it in place of the one that may run. `BrokerRefused`, at
        once, says that this user may not submit, or nothing as large.
        """
        options.setdefault("tenant", self.tenant)
        return await self.submit_task(
            make_task(capability, new_id() if id is None else id, encode_payload(payload), options),
            repeated=repeated,
        )

    async def submit_task(self, task: Task, *, repeated: bool = False) -> TaskHandle:
        """Submit a task that is already one; as `submit`, which says what is raised."""
        if not isinstance(repeated, bool):
            raise InvalidMessage(
                ErrorCode.INVALID_TASK, f"repeated must be True or False, not {repeated!r}"
            )
        task = _identified(task)
        check_task(task)
        self._open()
        handle = self._sealed(task, TaskHandle)
        handle.repeated = repeated
        try:
            self._outstanding.add_ticket(handle)
            self._carrier.send(handle)
        except Exception as error:
            self._outstanding.discard(handle)
            handle.end_span(error)
            raise
        try:
            await handle.wait_sent()
        except BaseException:
            # Who waits may be cancelled; the task is sent nevertheless, and its span ends by that.
            self._outstanding.discard(handle)
            raise
        return handle

    def forget(self, handle: TaskHandle) -> None:
        """Stop waiting for a task's result; the task goes on."""
        self._check_loop()
        self._outstanding.discard(handle)
        handle.abandon(ManipleError("the client was told to forget the task"))

    async def map(
        self,
        capability: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = WINDOW,
        ordered: bool = True,
        return_errors: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[Any, None]:
        """Submit a task for each payload and iterate over what the handlers return.

        At most `window` tasks are outstanding or waiting to be read at any time, however long
        `payloads` is, and fewer if they are large: about 64 MiB that wait to be sent or read. A
        task that fails raises its `TaskError` and ends the iteration (tasks that were sent go on);
        with `return_errors` the error is given in the output's place. The options are those of
        `submit`. Wrong options raise `InvalidMessage` before anything is sent.
        """
        options.setdefault("tenant", self.tenant)
        template = make_task(capability, new_id(), NULL, options)
        check_task(template)
        tenant = template.tenant

        def make(payload: Any) -> Slot:
            task_id = new_id()
            try:
                task = replace(template, id=task_id, payload=encode_payload(payload))
                return self._sealed(task, Slot)
            except InvalidMessage as error:
                return Slot(task_id, tenant, capability, b"", error)

        async with self._run(payloads, make, window=window, ordered=ordered) as slots:
            async for slot in slots:
                outcome = slot.outcome
                error = error_of(outcome) if isinstance(outcome, Result) else outcome
                if isinstance(outcome, Result) and error is None:
                    yield decode_value(outcome.output)
                elif error is not None:
                    if not return_errors:
                        raise error
                    yield error

    async def outcomes(
        self,
        tasks: Iterable[Task] | AsyncIterable[Task],
        *,
        window: int = WINDOW,
        ordered: bool = True,
    ) -> AsyncGenerator[Result, None]:
        """Submit tasks of any capability and options and iterate over their whole results.

        A task that cannot be sent gets a `rejected` result made here. Bounded as `map` is. Raises
        `BrokerUnavailable` when the broker does not confirm in time.
        """
        async with self._run(tasks, self._slot, window=window, ordered=ordered) as slots:
            async for slot in slots:
                outcome = slot.outcome
                yield outcome if isinstance(outcome, Result) else _refused(slot, outcome)

    async def close(self) -> None:
        """Send what waits, then let go; whoever still waits for a result gets `ManipleError`."""
        self._check_loop()
        if self._closed:
            return
        self._closed = True
        try:
            await self._carrier.close()
        finally:
            self._outstanding.abandon_where(
                ManipleError("the client was closed before the task's result arrived")
            )

    def _check_loop(self) -> None:
        check_loop(self._loop, "a client")

    def _open(self) -> None:
        self._check_loop()
        if self._closed:
            raise ManipleError("the client is closed")

    def _run(
        self,
        items: Iterable[T] | AsyncIterable[T],
        make: Callable[[T], Slot],
        *,
        window: int,
        ordered: bool,
    ) -> contextlib.aclosing[AsyncGenerator[Slot, None]]:
        self._open()
        if window < 1:
            raise ConfigurationError("window must be at least 1")
        flow = Flow(self._carrier, self._outstanding, window=window, ordered=ordered)
        return contextlib.aclosing(flow.iterate_slots(items, make))

    def _slot(self, task: Task) -> Slot:
        task = _identified(task)
        names = (task.id or "", task.tenant, task.capability or "")
        try:
            check_task(task)
            return self._sealed(task, Slot)
        except InvalidMessage as error:
            return Slot(*names, b"", error)

    def _sealed(self, task: Task, kind: Callable[[str, str, str, bytes], K]) -> K:
        """Return a checked task as it can be sent. Raises `InvalidMessage` if it is too large."""
        task, span = self._submitting.begin(task)
        try:
            body = encode_task(task)
        except Exception as error:
            if span is not None:
                end_span(span, error)
            raise
        ticket = kind(task.id or "", task.tenant, task.capability or "", body)
        ticket.span = span
        return ticket


def _identified(task: Task) -> Task:
    """Return the task with an id; one that is given is kept, also if it is none."""
    return replace(task, id=new_id()) if task.id is None else task


def _refused(slot: Slot, error: ManipleError | None) -> Result:
    """Return the result of a task that was never taken; raise what is no refusal."""
    if isinstance(error, InvalidMessage):
        failure = Failure(code=error.code, message=error.message, detail=error.detail)
    elif isinstance(error, PublishRefused):
        failure = Failure(code=ErrorCode.OVERLOADED, message=str(error), retry_after=1.0)
    else:
        raise error or ManipleError("no outcome")
    # Then the id is another's that goes on: this must not be taken for the end of that.
    taken = isinstance(failure.detail, dict) and "id" in failure.detail
    return Result(
        id=refusal_id(new_id(), None) if taken else slot.id,
        capability=slot.capability,
        tenant=slot.tenant,
        status=Status.REJECTED,
        error=failure,
    )
