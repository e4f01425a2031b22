"""The pace at which is tried again what a server did not do."""

import asyncio
from itertools import pairwise

import pytest
from tenacity import AsyncRetrying, Future, RetryCallState

from maniple_runtime.backoff import EqualJitter, error_of
from virtual_time import Process, World


def failed(number: int, error: Exception | None = None) -> RetryCallState:
    state = RetryCallState(AsyncRetrying(), fn=None, args=(), kwargs={})
    state.attempt_number = number
    state.outcome = Future(number)
    if error is None:
        state.outcome.set_result(None)
    else:
        state.outcome.set_exception(error)
    return state


def test_pauses_double_up_to_the_longest_and_each_is_shortened_by_at_most_a_half() -> None:
    pace = EqualJitter(0.5, 5.0)
    for number, full in enumerate([0.5, 1.0, 2.0, 4.0, 5.0, 5.0], 1):
        drawn = [pace(failed(number)) for _ in range(200)]
        assert full / 2 <= min(drawn) < 0.6 * full
        assert 0.9 * full < max(drawn) <= full


def test_the_error_of_an_attempt_is_told_and_one_that_did_not_fail_has_none() -> None:
    error = OSError("away")
    assert error_of(failed(1, error)) is error
    with pytest.raises(ValueError, match="has not failed"):
        error_of(failed(1))


def test_who_waits_sleeps_by_the_clock_of_its_loop_and_begins_with_the_first_pause_each_time() -> (
    None
):
    with World(7) as world:
        process = Process(world, "one")
        tries: list[float] = []

        async def fail_thrice() -> None:
            tries.append(world.now)
            if len(tries) % 4:
                raise OSError("away")

        async def work() -> None:
            trying = AsyncRetrying(wait=EqualJitter(1.0, 60.0))
            for _ in range(2):
                async for attempt in trying:
                    with attempt:
                        await fail_thrice()

        process.run(work())
        world.run(30.0)
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert len(tries) == 8
    for wait, full in zip(waits, [1.0, 2.0, 4.0, 0.0, 1.0, 2.0, 4.0], strict=True):
        assert full / 2 <= wait <= full + 0.001


async def test_who_is_cancelled_while_it_tries_or_waits_is_not_tried_again() -> None:
    for seconds in (0.0, 60.0):  # spent in the attempt, else in the pause after it
        tries = 0

        async def attempt_it(spent: float = seconds) -> None:
            nonlocal tries
            tries += 1
            await asyncio.sleep(spent)
            raise OSError("away")

        work: asyncio.Task[None] = asyncio.create_task(
            AsyncRetrying(wait=EqualJitter(60.0, 60.0))(attempt_it)
        )
        for _ in range(5):
            await asyncio.sleep(0)
        work.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait({work})
        assert work.cancelled()
        assert tries == 1
