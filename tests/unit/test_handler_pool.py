"""The threads of the handlers' loop: which calls are left in them, and what others have then."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextvars import copy_context
from typing import Any

import pytest

from maniple_agent.executors.pool import LEFT_AFTER, Caller, HandlerPool, calling
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
    pool, stuck, ours = HandlerPool(3), Stuck(), Caller("x.async")
    future, other = (submitted(pool, ours, stuck) for _ in range(2))
    stuck.wait_for(2)
    assert not future.cancel()
    assert pool.over(100.0) == []
    ours.over = True
    assert pool.over(200.0) == []
    over = pool.over(200.0 + LEFT_AFTER)
    assert [(call.name, call.abandoned) for call in over] == [("x.async", True), ("x.async", False)]
    stuck.gate.set()
    for each in (future, other):
        each.result(SOON)
    await wait_until(lambda: not pool.over(300.0))


def test_others_have_threads_for_those_that_are_kept() -> None:
    pool, stuck, ours = HandlerPool(2), Stuck(), Caller("x.async")
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


def test_a_call_that_was_cancelled_before_its_turn_does_not_run() -> None:
    pool, stuck, ran = HandlerPool(1), Stuck(), threading.Event()
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
    pool = HandlerPool(1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(SOON)
    with pytest.raises(SystemExit):
        pool.submit(exit).result(SOON)
    assert pool.submit(lambda: 1).result(SOON) == 1


def test_a_pool_that_was_shut_down_takes_nothing_and_waits_for_nobody() -> None:
    pool, stuck = HandlerPool(1), Stuck()
    pool.submit(stuck)
    stuck.wait_for(1)
    pool.shutdown(wait=True)
    with pytest.raises(RuntimeError):
        pool.submit(lambda: None)
    stuck.gate.set()


def test_no_thread_at_all_is_an_error_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, ran = HandlerPool(1), threading.Event()
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
from maniple_agent.executors.pool import HandlerPool
begun = threading.Event()
def never():
    begun.set()
    threading.Event().wait()
HandlerPool(1).submit(never)
begun.wait()
"""


def test_a_call_that_never_returns_does_not_hold_up_the_end_of_its_process() -> None:
    subprocess.run([sys.executable, "-c", ENDS], check=True, timeout=SOON)
