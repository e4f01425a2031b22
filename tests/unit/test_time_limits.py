"""How async handlers are ended at their timeouts, many by one timer of their loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contexts import context_for
from maniple.errors import ErrorCode
from maniple.execution import Outcome, TimeLimits, run_async
from maniple.tasks import define
from waiting import wait_until

SOON = 0.02
LONG = 60.0
Handler = Callable[[object], Awaitable[Any]]
Start = Callable[[Handler, float], "asyncio.Task[Outcome]"]


@pytest.fixture
async def start() -> Start:
    """Start handlers that have a timeout, under the limits of one loop."""
    limits = TimeLimits(asyncio.get_running_loop())

    def started(handler: Handler, timeout: float) -> "asyncio.Task[Outcome]":
        definition, context = define("a.b", handler, {}), context_for("a.b", timeout)
        heard = errors.append
        return asyncio.create_task(run_async(definition, context, b"null", heard, limits))

    errors: list[BaseException] = []
    return started


async def hang(_: object) -> None:
    await asyncio.sleep(LONG)


def code_of(outcome: Outcome) -> ErrorCode | None:
    return outcome.failure.code if outcome.failure else None


@pytest.mark.parametrize("timeouts", [(LONG, 2 * SOON, SOON), (SOON, LONG, 0.0), (-1.0, 0.0, LONG)])
async def test_each_is_ended_at_its_own_timeout_whichever_began_first(
    start: Start, timeouts: tuple[float, ...]
) -> None:
    tasks = {timeout: start(hang, timeout) for timeout in timeouts}
    patient = tasks.pop(LONG)
    for timeout, task in tasks.items():
        failure = (await task).failure
        assert failure is not None
        assert failure.code is ErrorCode.TIMEOUT
        assert failure.message == f"the attempt took longer than its {timeout:g} s"
    assert not patient.done()
    patient.cancel()


async def test_what_has_ended_in_time_is_not_cancelled_and_others_still_are(start: Start) -> None:
    async def quick(_: object) -> str:
        return "done"

    quickly = start(quick, SOON)
    assert (await quickly).output == b'"done"'
    assert code_of(await start(hang, 2 * SOON)) is ErrorCode.TIMEOUT
    assert not quickly.cancelled()


async def test_a_handler_that_never_waits_is_not_ended(start: Start) -> None:
    async def busy(_: object) -> int:
        return 1

    assert (await start(busy, 0.0)).output == b"1"


async def test_who_swallows_the_cancellation_is_not_cancelled_again(start: Start) -> None:
    times, going = 0, asyncio.Event()

    async def stubborn(_: object) -> str:
        nonlocal times
        while not going.is_set():
            try:
                await going.wait()
            except asyncio.CancelledError:
                times += 1
        return "all the same"

    task = start(stubborn, SOON)
    await wait_until(lambda: times == 1)
    assert code_of(await start(hang, SOON)) is ErrorCode.TIMEOUT  # they were looked at again
    going.set()
    assert (await task).output == b'"all the same"'
    assert (times, task.cancelling()) == (1, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError("of its own"), ErrorCode.TIMEOUT),
        (asyncio.CancelledError("later"), ErrorCode.TIMEOUT),
        (LookupError("while it cleared away"), ErrorCode.HANDLER_ERROR),
    ],
)
async def test_what_a_handler_raises_once_it_is_cancelled_is_told(
    start: Start, error: BaseException, code: ErrorCode
) -> None:
    async def other(_: object) -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            raise error

    assert code_of(await start(other, SOON)) is code


async def test_a_longer_timeout_inside_changes_nothing(start: Start) -> None:
    async def nested(_: object) -> None:
        async with asyncio.timeout(LONG):
            await asyncio.sleep(LONG)

    assert code_of(await start(nested, SOON)) is ErrorCode.TIMEOUT


async def test_who_is_cancelled_by_others_as_well_has_no_outcome(start: Start) -> None:
    reached = asyncio.Event()

    async def slow_to_end(_: object) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            reached.set()
            await asyncio.sleep(LONG)

    task = start(slow_to_end, SOON)
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Uncancellable(asyncio.Future[None]):
    def cancel(self, msg: Any = None) -> bool:
        raise LookupError(f"cannot be cancelled: {msg}")


async def test_what_cannot_be_cancelled_keeps_nobody_else_from_it(start: Start) -> None:
    never = Uncancellable()

    async def waits(_: object) -> None:
        await never

    stuck = start(waits, SOON)
    assert code_of(await start(hang, SOON)) is ErrorCode.TIMEOUT
    assert not stuck.done()
    never.set_result(None)
    assert (await stuck).failure is None


async def test_a_timeout_is_heard_of_as_one_with_where_the_handler_was() -> None:
    heard: list[BaseException] = []
    limits = TimeLimits(asyncio.get_running_loop())
    await run_async(
        define("a.b", hang, {}), context_for("a.b", SOON), b"null", heard.append, limits
    )
    (error,) = heard
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, asyncio.CancelledError)


async def test_only_a_task_has_a_limit() -> None:
    limits = TimeLimits(asyncio.get_running_loop())
    refused = asyncio.get_running_loop().create_future()

    def outside() -> None:
        try:
            limits.limit_current(1.0)
        except RuntimeError as error:
            refused.set_result(str(error))

    asyncio.get_running_loop().call_soon(outside)
    assert "only a task" in await refused
