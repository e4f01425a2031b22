"""Failures that a handler can think of never keep its agent from telling."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, field_serializer

from contexts import context_for
from maniple.codec import decode_value, encode
from maniple.errors import ErrorCode, InvalidMessage, ProgressDropped, TaskError
from maniple.execution import of_exception, run_async, run_sync
from maniple.messages import MAX_OUTPUT, MAX_PROGRESS
from maniple.tasks import TaskContext, define
from maniple.values import encode_progress


async def fails_within(_payload: Any) -> Any:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(10)


async def takes_too_long(_payload: Any) -> Any:
    await asyncio.sleep(10)


@pytest.mark.parametrize(
    ("function", "timeout", "code"),
    [
        (fails_within, 5.0, ErrorCode.HANDLER_ERROR),
        (takes_too_long, 0.01, ErrorCode.TIMEOUT),
    ],
)
async def test_only_the_attempts_own_timeout_is_its_timeout(
    function: Any, timeout: float, code: ErrorCode
) -> None:
    deadline = datetime.now(UTC) + timedelta(minutes=1)
    context = context_for("text.stats", timeout, deadline=deadline)
    outcome = await run_async(define("text.stats", function, {}), context, b"null")
    assert outcome.failure is not None
    assert outcome.failure.code is code


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (2, 2.0),
        (0.5, 0.5),
        (None, None),
        ("5", None),
        (float("nan"), None),
        (-1, None),
        (10**400, None),
    ],
)
def test_a_retry_after_is_seconds_or_nothing(given: Any, kept: float | None) -> None:
    error = TaskError(ErrorCode.HANDLER_ERROR, "busy", retry_after=given)
    failure = of_exception(error).failure
    assert failure is not None
    assert failure.retry_after == kept


@pytest.mark.parametrize("detail", [object(), {1: {2}}, float("nan"), "\ud800", [b"x"]])
def test_whatever_a_handler_says_of_its_failure_can_be_sent(detail: Any) -> None:
    failure = of_exception(TaskError(ErrorCode.HANDLER_ERROR, "\ud800", detail=detail)).failure
    assert encode(failure)


class Unreadable(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class Unreadables(BaseModel):
    field: int = 0

    @field_serializer("field")
    def serialized(self, _value: int) -> int:
        raise LookupError("no JSON")

    def __repr__(self) -> str:
        raise LookupError("no text")


@pytest.mark.parametrize(
    "error",
    [
        Unreadable(),
        SystemExit(Unreadable()),
        TaskError(ErrorCode.HANDLER_ERROR, "busy", detail=Unreadables()),
        TaskError(ErrorCode.HANDLER_ERROR, "busy", detail=10**5000),
        InvalidMessage(ErrorCode.INVALID_TASK, "no", detail={"it": object()}),
        InvalidMessage("typo", "no"),  # type: ignore[arg-type]  # the same
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_of_a_handler_escapes_its_outcome(error: BaseException) -> None:
    def fail(_payload: Any) -> None:
        raise error

    deadline = datetime.now(UTC) + timedelta(minutes=1)
    context = context_for("text.stats", 1.0, deadline=deadline)
    outcome = run_sync(define("text.stats", fail, {}), context, b"null")
    assert outcome.failure is not None
    assert encode(outcome.failure)


@pytest.mark.parametrize("value", [object(), Unreadables(), float("nan")])
def test_progress_that_cannot_be_sent_is_dropped_with_a_reason(value: object) -> None:
    with pytest.raises(ProgressDropped, match="no JSON value"):
        encode_progress(value)
    assert encode_progress([1]) == b"[1]"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("x" * (MAX_PROGRESS - 1), "it is larger than 65,536 bytes of JSON"),
        ("x" * (MAX_OUTPUT + 1), "it is larger than 65,536 bytes of JSON"),
        (float("nan"), "it is no JSON value"),
    ],
    ids=["over 64 KiB", "over an output", "no JSON"],
)
async def test_a_handler_is_told_that_its_progress_was_dropped_and_goes_on(
    value: object, why: str
) -> None:
    told: list[bytes] = []

    async def reports(_payload: Any, context: TaskContext) -> list[Any]:
        dropped, taken = context.progress(value), context.progress("x" * (MAX_PROGRESS - 2))
        return [bool(dropped), dropped.refusal, await dropped, bool(taken), await taken]

    deadline = datetime.now(UTC) + timedelta(minutes=1)

    def report(value: Any) -> None:
        told.append(encode_progress(value))

    context = context_for("text.stats", 1.0, deadline=deadline, report=report)
    outcome = await run_async(define("text.stats", reports, {}), context, b"null")
    assert decode_value(outcome.output) == [False, why, False, True, True]
    assert [len(each) for each in told] == [MAX_PROGRESS]


def test_who_wrote_a_handler_reads_once_that_its_progress_is_dropped() -> None:
    deadline = datetime.now(UTC) + timedelta(minutes=1)

    def report(value: Any) -> None:
        encode_progress(value)

    context = context_for("text.logs", 1.0, deadline=deadline, report=report)
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            context.progress("x" * MAX_PROGRESS)
    (line,) = lines
    assert (line["capability"], line["log_level"]) == ("text.logs", "warning")
