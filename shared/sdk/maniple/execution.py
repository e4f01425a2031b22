"""Running one handler once: payload in, outcome out, every failure with its code.

Used by the agent's executors, its worker processes, and `maniple.testing`.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import lru_cache
from typing import Any

import msgspec
import structlog
from msgspec import Raw, Struct, structs

from maniple.causes import MAX_MESSAGE, behind, text_of
from maniple.codec import decode_value, encode, exceeds_depth
from maniple.errors import ErrorCode, InvalidMessage, ProgressDropped, TaskError
from maniple.messages import MAX_DEPTH, MAX_OUTPUT, MAX_PROGRESS, Failure
from maniple.tasks import TaskContext, TaskDefinition, current_task
from maniple.values import dumps

_PLAIN = (str, int, bool, type(None))


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


async def run_async(
    definition: TaskDefinition,
    context: TaskContext,
    payload: bytes | Raw,
    heard: Heard = _not_heard,
) -> Outcome:
    """Run an `async def` handler; it is cancelled at `context.timeout` seconds."""
    limit = asyncio.timeout(context.timeout)
    token = current_task.set(context)
    try:
        value = definition.decode(payload)
        async with limit:
            output = _called(definition, value, context)
            if inspect.isawaitable(output):  # a decorator may have made something else of it
                output = await output
        return Outcome(encode_output(output))
    except TimeoutError as error:
        heard(error)
        # The handler's own TimeoutError is an error of the handler.
        return timed_out(context.timeout) if limit.expired() else of_exception(error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # the process is ending
        heard(error)
        return of_exception(error)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its outcome
        heard(error)
        return _with_a_hint(of_exception(error), definition.capability)
    finally:
        current_task.reset(token)


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


def encode_output(value: Any) -> bytes:
    """Return a handler's return value as JSON.

    Raises `InvalidMessage` (`invalid_output`) for a value that is not JSON, nests over 100 deep or
    is over 1 MiB. Any type that a payload may be annotated with is accepted, see `maniple.values`.
    """
    try:
        raw = _encoded(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidMessage(
            ErrorCode.INVALID_OUTPUT, f"the handler returned no JSON value: {error}"
        ) from error
    if len(raw) > MAX_OUTPUT:
        raise InvalidMessage(
            ErrorCode.INVALID_OUTPUT,
            f"an output is at most {MAX_OUTPUT:,} bytes, this one has {len(raw):,}",
        )
    if _is_too_deep(raw):
        raise InvalidMessage(ErrorCode.INVALID_OUTPUT, f"nested deeper than {MAX_DEPTH}")
    return raw


def encode_progress(value: Any) -> bytes:
    """Return a progress value as JSON. Raises `ProgressDropped` if it cannot be sent.

    Progress is best effort and does not fail the task: `TaskContext.progress` tells that it was
    dropped.
    """
    try:
        raw = _encoded(value)
    except Exception as error:
        # Whatever it is: a model's own serializer may raise what it likes.
        raise ProgressDropped("it is no JSON value") from error
    if len(raw) > MAX_PROGRESS:
        raise ProgressDropped(f"it is larger than {MAX_PROGRESS:,} bytes of JSON")
    if _is_too_deep(raw):
        raise ProgressDropped(f"it is nested deeper than {MAX_DEPTH}")
    return raw


def _encoded(value: Any) -> bytes:
    return encode(value) if type(value) in _PLAIN else dumps(value)


def _is_too_deep(raw: bytes) -> bool:
    return exceeds_depth(raw, MAX_DEPTH - 2)
