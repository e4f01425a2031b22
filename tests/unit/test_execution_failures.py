"""Failures that a handler can think of never keep its agent from telling."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maniple.codec import encode
from maniple.errors import ErrorCode, TaskError
from maniple.execution import of_exception, run_async
from maniple.tasks import TaskContext, define


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
    context = TaskContext("1", "text.stats", 1, deadline, timeout)
    outcome = await run_async(define("text.stats", function, {}), context, b"null")
    assert outcome.failure is not None
    assert outcome.failure.code is code


@pytest.mark.parametrize(
    ("given", "kept"),
    [(2, 2.0), (0.5, 0.5), (None, None), ("5", None), (float("nan"), None), (-1, None)],
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
