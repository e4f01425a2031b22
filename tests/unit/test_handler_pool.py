"""The threads of the handlers' loop: which calls are left in them, and what others have then."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextvars import copy_context
from time import monotonic
from typing import Any

import pytest

from maniple_agent.executors.pool import LEFT_AFTER, STARVED_AFTER, Caller, HandlerPool, calling
from waiting import wait_until

SOON = 30.0


class Stuck:
    """Calls that do not return before they are told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self) -> None:
        self.begun.release()
        self.gate.wait(SOON)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=SOON)


def submitted(pool: HandlerPool, of: Caller, call: Callable[[], Any]) -> Future[Any]:
    context = copy_context()
    context.run(calling.set, of)
    return context.run(pool.submit, call)


async def test_a_call_is_left_once_it_was_given_up_and_its_handler_is_over_for_a_second() -> None:
    pool, stuck, ours = HandlerPool(3, clock=monotonic), Stuck(), Caller("x.async")
    future, other = (submitted(pool, ours, stuck) for _ in range(2))
    stuck.wait_for(2)
    assert not future.cancel()
    assert pool.over(100.0) == []
    ours.over = True
    assert pool.over(200.0) == []
    over = pool.over(200.0 + LEFT_AFTER)
    assert [(call.name, call.left) for call in over] == [("x.async", True), ("x.async", False)]
    stuck.gate.set()
    for each in (future, other):
        each.result(SOON)
    await wait_until(lambda: not pool.over(300.0))


def test_others_have_threads_for_those_that_are_kept() -> None:
    pool, stuck, ours = HandlerPool(2, clock=monotonic), Stuck(), Caller("x.async")
    for _ in range(2):
        submitted(pool, ours, stuck)
    stuck.wait_for(2)
    later = pool.submit(lambda: 3)
    assert not later.done()
    pool.grow(1)
    assert later.result(SOON) == 3
    stuck.gate.set()
    pool.grow(0)
    assert [pool.submit(int, n).result(SOON) for n in range(5)] == [0, 1, 2, 3, 4]


def test_all_that_wait_have_threads_once_there_may_be_more() -> None:
    pool, stuck, ours = HandlerPool(1, clock=monotonic), Stuck(), Caller("x.async")
    calls = [submitted(pool, ours, stuck) for _ in range(4)]
    stuck.wait_for(1)
    assert not stuck.begun.acquire(timeout=0.05)  # there is one thread
    pool.grow(3)
    stuck.wait_for(3)
    assert not any(call.done() for call in calls)
    stuck.gate.set()
    assert [call.result(SOON) for call in calls] == [None] * 4


class Looks:
    """Whether a pool is starved, by a clock that a look moves."""

    def __init__(self, threads: int) -> None:
        self.now = 0.0
        self.pool = HandlerPool(threads, clock=lambda: self.now)
        self.stuck = Stuck()

    def keep(self, caller: Caller, threads: int) -> None:
        for _ in range(threads):
            submitted(self.pool, caller, self.stuck)
        self.stuck.wait_for(threads)

    def starved_after(self, seconds: float) -> bool:
        self.now += seconds
        return self.pool.starved(self.now)

    def starves(self) -> bool:
        """Whether it is, for all that can be seen of it in time."""
        self.starved_after(2 * LEFT_AFTER)
        return self.starved_after(STARVED_AFTER)


@pytest.fixture
def looks() -> Iterator[Looks]:
    looks = Looks(2)
    yield looks
    looks.stuck.gate.set()


@pytest.mark.parametrize("how", ["over", "given_up"])
def test_a_pool_is_starved_while_tasks_that_are_over_keep_all_its_threads(
    how: str, looks: Looks
) -> None:
    kept, goes_on = Caller("x.over"), Caller("x.async")
    looks.keep(kept, 2)
    waiting = submitted(looks.pool, goes_on, lambda: 1)
    assert not looks.starves()  # they are at work for one that goes on
    setattr(kept, how, True)
    assert not looks.starved_after(LEFT_AFTER)
    assert looks.starved_after(STARVED_AFTER)
    assert waiting.cancel()
    assert looks.starves()  # the next would wait, too
    looks.stuck.gate.set()
    assert submitted(looks.pool, goes_on, lambda: 1).result(SOON) == 1
    assert not looks.starved_after(0.0)


def test_a_pool_that_has_fewer_threads_for_tasks_that_go_on_is_starved_while_some_wait(
    looks: Looks,
) -> None:
    kept, goes_on = Caller("x.over"), Caller("x.async")
    kept.over = True
    looks.keep(kept, 1)
    looks.keep(goes_on, 1)
    assert not looks.starves()
    waiting = submitted(looks.pool, goes_on, lambda: 1)
    assert looks.starves()
    waiting.cancel()
    assert not looks.starves()


def test_tasks_that_go_on_starve_nobody(looks: Looks) -> None:
    kept, goes_on = Caller("x.over"), Caller("x.async")
    kept.over = True
    looks.keep(kept, 1)
    looks.pool.grow(1)
    looks.keep(goes_on, 2)
    submitted(looks.pool, goes_on, lambda: 1)
    assert not any(looks.starved_after(LEFT_AFTER) for _ in range(100))


def test_a_lack_of_threads_counts_only_if_each_look_sees_it(looks: Looks) -> None:
    passing, goes_on = Caller("x.passing"), Caller("x.async")
    looks.keep(goes_on, 1)
    looks.keep(passing, 1)
    submitted(looks.pool, goes_on, lambda: 1)
    for _ in range(10):
        passing.over = not passing.over
        assert not looks.starved_after(STARVED_AFTER)


def test_a_pool_that_can_start_no_threads_is_starved_until_it_can(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = Caller("x.async")
    looks.keep(goes_on, 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        waiting = submitted(looks.pool, goes_on, lambda: 1)
        assert looks.starves()
    looks.pool.grow(0)
    assert waiting.result(SOON) == 1
    assert not looks.starved_after(0.0)


def test_a_call_that_was_cancelled_before_its_turn_does_not_run() -> None:
    pool, stuck, ran = HandlerPool(1, clock=monotonic), Stuck(), threading.Event()
    pool.submit(stuck)
    stuck.wait_for(1)
    waiting = pool.submit(ran.set)
    assert waiting.cancel()
    stuck.gate.set()
    pool.submit(lambda: None).result(SOON)
    assert not ran.is_set()
    with pytest.raises(CancelledError):
        waiting.result(0)


def test_what_a_call_raises_is_told_and_its_thread_goes_on() -> None:
    pool = HandlerPool(1, clock=monotonic)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(SOON)
    with pytest.raises(SystemExit):
        pool.submit(exit).result(SOON)
    assert pool.submit(lambda: 1).result(SOON) == 1


def test_a_pool_that_was_shut_down_takes_nothing_and_waits_for_nobody() -> None:
    pool, stuck = HandlerPool(1, clock=monotonic), Stuck()
    pool.submit(stuck)
    stuck.wait_for(1)
    pool.shutdown(wait=True)
    with pytest.raises(RuntimeError):
        pool.submit(lambda: None)
    stuck.gate.set()


def test_no_thread_at_all_is_an_error_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, ran = HandlerPool(1, clock=monotonic), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError):
            pool.submit(ran.set)
    assert pool.submit(lambda: 1).result(SOON) == 1
    assert not ran.is_set()


def refuses(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


ENDS = """
import subprocess
import sys
import threading
import time
from maniple_agent.executors.pool import HandlerPool
begun = threading.Event()
def never():
    begun.set()
    threading.Event().wait()
HandlerPool(1, clock=time.monotonic).submit(never)
begun.wait()
"""


def test_a_call_that_never_returns_does_not_hold_up_the_end_of_its_process() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS], check=False, timeout=SOON)
    assert ended.returncode == 0
