"""What a forked child has of its parent: neither its connections nor its signals."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from maniple.forks import keep_from_children, keep_signals_from_children
from waiting import wait_until

# Python 3.12 warns of what users do, and what this is about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SOON = 10.0  # seconds; what is claimed is that it happens while the child lives


@contextmanager
def child(does: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Have a child that a thread has forked, which lives until the end of the block."""
    made: list[int] = []
    ready, say_ready = os.pipe()

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                does()
                os.write(say_ready, b"!")
                signal.pause()
            finally:
                os._exit(1)
        made.append(pid)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    pid = made[0]
    try:
        assert os.read(ready, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(say_ready)


def hears_of_the_end(other: socket.socket) -> bool:
    other.settimeout(SOON)
    try:
        return other.recv(1) == b""
    except TimeoutError:
        return False


def test_a_connection_ends_with_its_process_though_a_child_of_that_lives_on() -> None:
    ours, theirs = socket.socketpair()
    keep_from_children(ours.fileno())
    with theirs, child():
        ours.close()
        assert hears_of_the_end(theirs)


def test_a_pipe_ends_with_its_process_though_a_child_of_that_lives_on() -> None:
    read, write = os.pipe()
    keep_from_children(write)
    os.set_blocking(read, False)
    with child() as pid:
        os.close(write)
        assert os.read(read, 1) == b""
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(read)


def test_a_child_keeps_what_the_handler_shares_with_it() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(SOON)
    with ours, theirs, child(lambda: theirs.sendall(b"here")):
        assert ours.recv(4) == b"here"


def test_a_number_that_is_used_again_is_not_taken_from_a_child() -> None:
    first, other = socket.socketpair()
    keep_from_children(first.fileno())
    ours, theirs = socket.socketpair()
    ours.settimeout(SOON)
    number = first.fileno()
    os.dup2(theirs.fileno(), number)  # as if it had been closed and opened anew
    with first, other, ours, theirs, child(lambda: os.write(number, b"here")):
        assert ours.recv(4) == b"here"


async def test_a_signal_for_a_child_ends_the_child_and_is_not_heard_by_its_parent() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    keep_signals_from_children(signal.SIGUSR1)
    try:
        with child() as pid:
            os.kill(pid, signal.SIGUSR1)
            await wait_until(lambda: ended_by(pid) == signal.SIGUSR1)
        assert not heard.is_set()
        os.kill(os.getpid(), signal.SIGUSR1)
        await wait_until(heard.is_set)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


def ended_by(pid: int) -> int | None:
    """Return the exit code or signal that a child has ended by, if it has ended."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return None if ended is None else ended.si_status
