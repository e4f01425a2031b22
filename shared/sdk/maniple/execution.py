"""Running one handler once: payload in, outcome out, every failure with its code.

Used by the agent's executors, its worker processes, and `maniple.testing`.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import lru_cache
from typing import Any

import structlog
from msgspec import Raw, Struct, structs

from maniple.causes import MAX_MESSAGE, behind, text_of
from maniple.codec import decode_value
from maniple.errors import ErrorCode, InvalidMessage, TaskError
from maniple.messages import Failure
from maniple.tasks import TaskContext, TaskDefinition, current_task
from maniple.values import encode_output

RESOLUTION = 0.001  # seconds that a timer of uvloop may come too early


class Outcome(Struct, frozen=True):
    """How one attempt ended: the encoded output, or a failure.

    `retryable` says whether another attempt could end otherwise.
    """

    output: bytes = b"null"
    failure: Failure | None = None
    retryable: bool = True


def failed(code: ErrorCode, message: str, *, retryable: bool = True, detail: Any = None) -> Outcome:
    """Return the outcome of an attempt that failed."""
    return Outcome(failure=Failure(code=code, message=message, detail=detail), retryable=retryable)


def timed_out(timeout: float) -> Outcome:
    """Return the outcome of an attempt that took longer than `timeout` seconds."""
    return failed(ErrorCode.TIMEOUT, f"the attempt took longer than its {timeout:g} s")


Heard = Callable[[BaseException], object]
"""Called with the exception that a handler raised; must not raise."""


def _not_heard(_error: BaseException) -> None:
    pass


class TimeLimits:
    """Cancels tasks of a loop, each once, when their time is over, as `asyncio.timeout` does.

    A timer for each would cost more than a short task does. There is one, set to the time that is
    over first. It looks at all tasks, and is set anew.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Limit tasks of `loop`; to be used on it only."""
        self._loop = loop
        self._over_at: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    def limit_current(self, seconds: float) -> asyncio.Task[Any]:
        """Give the task that runs now so many seconds, until `lift`; return it."""
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("only a task can be cancelled when its time is over")
        self._over_at[task] = over_at = self._loop.time() + seconds
        if over_at < self._looks_at:
            self._look_at(over_at)
        return task

    def lift(self, task: asyncio.Task[Any]) -> bool:
        """Tell whether a task was cancelled because its time was over; that counts no more."""
        if self._over_at.pop(task, None) is not None:
            return False
        task.uncancel()
        return True

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = when
        # Without what the task has set: a timer would keep it, long after the task.
        self._timer = self._loop.call_at(when, self._cancel_overdue, context=Context())

    def _cancel_overdue(self) -> None:
        self._timer, self._looks_at = None, math.inf
        now = self._loop.time() + RESOLUTION
        try:
            for task in [task for task, over_at in self._over_at.items() if over_at <= now]:
                del self._over_at[task]
                task.cancel()  # what it waits for may raise whatever it likes
        finally:
            if self._over_at:
                self._look_at(min(self._over_at.values()))


async def run_async(
    definition: TaskDefinition,
    context: TaskContext,
    payload: bytes | Raw,
    heard: Heard = _not_heard,
    limits: TimeLimits | None = None,
) -> Outcome:
    """Run an `async def` handler; `limits` of its loop cancel it at `context.timeout` seconds."""
    if limits is None:
        limits = TimeLimits(asyncio.get_running_loop())
    task, late = limits.limit_current(context.timeout), False
    token = current_task.set(context)
    try:
        try:
            output = _called(definition, definition.decode(payload), context)
            if inspect.isawaitable(output):  # a decorator may have made something else of it
                output = await output
        finally:
            late = limits.lift(task)
        return Outcome(encode_output(output))
    except asyncio.CancelledError as error:
        if task.cancelling():
            raise  # the process is ending
        heard(_timeout_of(error) if late else error)
        return timed_out(context.timeout) if late else of_exception(error)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its outcome
        heard(error)
        if late and isinstance(error, TimeoutError):  # before, it is an error of the handler
            return timed_out(context.timeout)
        return _with_a_hint(of_exception(error), definition.capability)
    finally:
        current_task.reset(token)


def _timeout_of(cancelled: asyncio.CancelledError) -> TimeoutError:
    """Return what says in a log that a handler took too long, and where it was."""
    error = TimeoutError()
    error.__cause__ = cancelled
    return error


def run_sync(
    definition: TaskDefinition,
    context: TaskContext,
    payload: bytes | Raw,
    heard: Heard = _not_heard,
) -> Outcome:
    """Run a plain handler in the calling thread; the caller enforces the timeout.

    Context variables that it sets are reset when it ends.
    """
    return copy_context().run(_run_here, definition, context, payload, heard)


def _run_here(
    definition: TaskDefinition, context: TaskContext, payload: bytes | Raw, heard: Heard
) -> Outcome:
    current_task.set(context)
    try:
        output = _called(definition, definition.decode(payload), context)
        if inspect.isawaitable(output):
            with asyncio.Runner() as runner:
                return runner.run(_awaited(definition, output, context, heard))
        return Outcome(encode_output(output))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its outcome
        heard(error)
        return of_exception(error)


async def _awaited(
    definition: TaskDefinition, output: Awaitable[Any], context: TaskContext, heard: Heard
) -> Outcome:
    """Await what a plain function returned, as a decorator does that hides an `async def`."""
    _warn_of_awaitable(definition.capability)
    limit = asyncio.timeout(context.timeout)
    try:
        async with limit:
            return Outcome(encode_output(await output))
    except TimeoutError as error:
        if not limit.expired():
            raise
        heard(error)
        return timed_out(context.timeout)


@lru_cache(maxsize=1024)
def _warn_of_awaitable(capability: str) -> None:
    """Warn the handler's author, but not at each task."""
    structlog.get_logger("maniple.task").warning(
        "a handler that is no async def gives what is to be awaited; each task has a loop of its "
        "own; give its decorator functools.wraps",
        capability=capability,
    )


def _called(definition: TaskDefinition, value: Any, context: TaskContext) -> Any:
    return (
        definition.function(value, context)
        if definition.takes_context
        else definition.function(value)
    )


def of_exception(error: BaseException) -> Outcome:
    """Return the outcome for an exception of a handler: always one that can be encoded."""
    try:
        return _told(error)
    except BaseException:  # noqa: BLE001 - an error of the handler's own may raise when it is read
        name = type(error).__name__[:MAX_MESSAGE]
        message = f"{name}, which cannot be told: it raises when it is read"
        return failed(ErrorCode.HANDLER_ERROR, message, detail={"type": name})


def _told(error: BaseException) -> Outcome:
    if isinstance(error, InvalidMessage):
        detail = _json_or_text(error.detail)
        code = ErrorCode(error.code)
        if not code.known:
            raise ValueError(f"{code} is no code of an error")
        return failed(code, text_of(error.message), retryable=False, detail=detail)
    if isinstance(error, TaskError):
        failure = Failure(
            code=ErrorCode.HANDLER_ERROR,
            message=text_of(error.message),
            retry_after=_seconds(error.retry_after),
            detail=_more_than_its_type(error)
            if error.detail is None
            else _json_or_text(error.detail),
        )
        return Outcome(failure=failure)
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        message = text_of(f"the handler tried to end its process: {error!r}")
        return failed(ErrorCode.HANDLER_CRASHED, message, detail=_more_than_its_type(error))
    name = type(error).__name__[:MAX_MESSAGE]
    return failed(ErrorCode.HANDLER_ERROR, text_of(f"{name}: {error}"), detail=behind(error))


def _with_a_hint(outcome: Outcome, capability: str) -> Outcome:
    """Add advice about a decorator that runs the coroutine on an event loop of its own."""
    failure = outcome.failure
    if failure is None or "cannot be called from a running event loop" not in failure.message:
        return outcome
    hint = f'await it, or, if a decorator does so, @task("{capability}", executor="thread")'
    told = structs.replace(failure, message=text_of(f"{failure.message}; {hint}"))
    return structs.replace(outcome, failure=told)


def _more_than_its_type(error: BaseException) -> dict[str, Any] | None:
    told = behind(error)
    return told if len(told) > 1 else None


def _seconds(value: Any) -> float | None:
    try:
        usable = isinstance(value, int | float) and math.isfinite(value) and value >= 0
    except OverflowError:  # an integer beyond every float
        return None
    return float(value) if usable else None


def _json_or_text(value: Any) -> Any:
    try:
        return decode_value(encode_output(value))
    except Exception:  # noqa: BLE001 - a model's own serializer may raise whatever it likes
        return text_of(repr(value))
