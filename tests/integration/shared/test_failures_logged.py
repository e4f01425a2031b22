"""Why a handler failed is in the log of its agent: traceback, task and trace."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from executor_bench import Told, job, started, workers
from maniple.errors import ErrorCode, InvalidMessage, TaskFailed
from maniple.values import decoder_of
from maniple_agent.executors import Executor, LoopExecutor, ThreadExecutor
from maniple_agent.executors.failures import A_SECOND, AT_ONCE, MAX_TRACEBACK, Failures
from maniple_runtime.event_loop import new_event_loop
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import configure_logging
from waiting import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(ServiceSettings(instance="p1", log_level="debug"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


EXECUTORS: dict[str, Callable[[Told], Executor]] = {
    "x.group": lambda told: LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic),
    "x.thread_raises": lambda told: ThreadExecutor(1, "agent-1", told, clock=monotonic),
    "x.process_raises": workers,
}


@pytest.mark.parametrize("capability", EXECUTORS)
async def test_a_failed_attempt_is_logged_with_traceback_task_and_trace(
    capability: str,
    lines: Callable[[], list[dict[str, Any]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = Told()
    failing = job("it", capability, "the shop")
    failing.envelope = replace(failing.envelope, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    async with started(EXECUTORS[capability](told)) as executor:
        await wait_until(lambda: executor.free > 0, 30)
        executor.run([failing])
        await told.of("it")
    # A worker process writes where its agent does.
    here = [*lines(), *(json.loads(line) for line in capfd.readouterr().err.splitlines())]
    (line,) = [line for line in here if line["event"] == "an attempt failed"]
    assert (line["task_id"], line["capability"], line["attempt"]) == ("it", capability, 1)
    assert line["trace_id"] == TRACE
    assert line["level"] == "warning"
    assert "LookupError" in line["exception"]
    assert "the shop" not in line["exception"]  # it may be a payload, and payloads are not logged
    assert "executor_handlers.py" in line["exception"]


async def test_where_an_attempt_waited_at_its_timeout_is_logged(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    told = Told()
    async with started(
        LoopExecutor(1, "agent-1", told, new_event_loop, clock=monotonic)
    ) as executor:
        executor.run([job("it", "x.hang", timeout=0.05)])
        assert await told.code("it") is ErrorCode.TIMEOUT
    (line,) = [line for line in lines() if line["event"] == "an attempt failed"]
    assert "await asyncio.sleep(60)" in line["exception"]


def raised(error: BaseException) -> BaseException:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    return caught.value


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (TaskFailed(ErrorCode.HANDLER_ERROR, "not now"), "debug"),
        (InvalidMessage(ErrorCode.INVALID_OUTPUT, "no JSON"), "warning"),
        (SystemExit(3), "warning"),
        (asyncio.CancelledError(), "warning"),
        (ValueError("x" * 10**6), "warning"),
    ],
)
def test_what_was_to_be_expected_is_told_to_who_looks_for_it(
    lines: Callable[[], list[dict[str, Any]]], error: BaseException, level: str
) -> None:
    Failures(monotonic).tell(raised(error))
    (line,) = lines()
    assert line["level"] == level
    assert "test_failures_logged.py" in line["exception"]
    assert len(line["exception"]) <= MAX_TRACEBACK + 10


def test_nothing_is_logged_of_a_payload_that_does_not_fit(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    decode = decoder_of(list[int], "a.b")
    with pytest.raises(InvalidMessage) as caught:
        decode(b'["a secret"]')
    Failures(monotonic).tell(caught.value)
    assert lines() == []


def test_a_handler_that_fails_all_the_time_does_not_fill_the_log(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    now = 0.0
    failures = Failures(clock=lambda: now)
    error = raised(ValueError("again"))
    for _ in range(5000):
        failures.tell(error)
    assert len(lines()) == AT_ONCE
    now = 1.0 / A_SECOND
    failures.tell(error)
    assert lines()[-1]["left_out"] == 5000 - AT_ONCE
