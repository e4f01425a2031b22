"""`maniple.loops`: ending a task, whatever it does."""

import asyncio

import pytest

from maniple import loops


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops, "REPEAT", 0.01)
    cancelled = 0

    async def stubborn() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await loops.end(task)
    assert (task.done(), cancelled) == (True, 3)


async def test_what_a_task_had_died_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def dies() -> None:
        raise KeyError("of this")

    task = asyncio.create_task(dies(), name="supervisor")
    await asyncio.wait([task])
    await loops.end(task)
    assert "supervisor had failed" in caplog.text
    assert "KeyError: 'of this'" in caplog.text
