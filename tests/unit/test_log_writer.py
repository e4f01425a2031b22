"""Logs leave by a thread: whoever reads them, or does not, nobody who logs waits."""

import asyncio
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ending import ended, launched
from maniple_runtime.telemetry import log_writer
from maniple_runtime.telemetry.log_writer import LogWriter
from waiting import wait_until

LOOP = """
import asyncio, sys
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import configure_logging, dropped_lines, get_logger

async def work():
    for number in range(20_000):
        get_logger().info("line", number=number, text="x" * 900)
        await asyncio.sleep(0)
    print("alive", dropped_lines(), flush=True)
    sys.stdin.readline()
    get_logger().info("last")

configure_logging(ServiceSettings(instance="p1"))
asyncio.run(work())
"""


CRASH = """
import os, sys
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import configure_logging, get_logger

configure_logging(ServiceSettings(instance="p1"), patience=60.0)
for number in range(5):
    get_logger().info("line", number=number)
os._exit(3)
"""


class Pipe:
    """A pipe and a logger that writes to it."""

    def __init__(self, most_bytes: int, patience: float = 0.0) -> None:
        self.read_end, self.write_end = os.pipe()
        self.writer = LogWriter(self.write_end, most_bytes, patience)
        self.log = logging.Logger("piped")  # noqa: LOG001 - of this test alone
        self.log.addHandler(self.writer)

    def lines(self, *, until: str) -> list[str]:
        text = b""
        while until.encode() not in text:
            text += os.read(self.read_end, 1 << 16)
        return text.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(100_000)
    yield made
    os.close(made.read_end)


async def test_a_loop_goes_on_though_nobody_reads_its_logs() -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    async with launched(sys.executable, "-c", LOOP, **pipes) as process:
        assert process.stdout is not None
        alive, dropped = (await process.stdout.readline()).split()
        assert alive == b"alive"
        assert int(dropped) > 0
        _, said = await process.communicate(b"\n")
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    numbers = [line["number"] for line in lines if line["event"] == "line"]
    assert numbers == sorted(numbers)
    assert len(numbers) == 20_000 - int(dropped)
    (told,) = [line for line in lines if "were dropped" in line["event"]]
    assert told["event"].startswith(dropped.decode())
    assert lines[-1]["event"] == "last" or lines[-2]["event"] == "last"
    assert told["instance"] == "p1"


def test_a_reader_that_comes_late_gets_what_there_was_room_for_and_how_much_is_missing(
    pipe: Pipe,
) -> None:
    for number in range(10_000):
        pipe.log.warning("line %05d %s", number, "x" * 100)
    *lines, told = pipe.lines(until="in time\n")
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == sorted(set(numbers))
    assert told == f"{pipe.writer.dropped} log lines were dropped: nobody read them in time"
    assert len(lines) + pipe.writer.dropped == 10_000
    pipe.log.warning("after")
    assert pipe.lines(until="after\n") == ["after"]


async def test_a_reader_that_has_gone_costs_lines_and_nothing_else() -> None:
    pipe = Pipe(100_000)
    os.close(pipe.read_end)
    for number in range(3):
        pipe.log.warning("line %d", number)
    await wait_until(lambda: pipe.writer.dropped == 3)


def test_a_pipe_that_somebody_made_non_blocking_loses_no_line(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.write_end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_WRONLY)
    for number in range(900):
        pipe.log.warning("line %05d %s", number, "x" * 90)
    assert len(pipe.lines(until="line 00899")) == 900
    assert pipe.writer.dropped == 0


def test_lines_of_many_threads_arrive_whole(pipe: Pipe) -> None:
    def work(name: int) -> None:
        for number in range(100):
            pipe.log.warning("%d %d %s", name, number, str(name) * 50)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    lines: list[str] = []
    while len(lines) < 500:
        lines += pipe.lines(until="\n")
    for thread in threads:
        thread.join()
    assert all(line.split()[2] == line.split()[0] * 50 for line in lines)


def test_a_forked_child_writes_by_itself(pipe: Pipe) -> None:
    pipe.log.warning("from the parent")
    assert pipe.lines(until="parent\n") == ["from the parent"]
    pid = os.fork()
    if pid == 0:
        pipe.log.warning("from the child")
        pipe.writer.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert pipe.lines(until="child\n") == ["from the child"]


def test_the_end_of_a_process_waits_for_what_can_be_written_and_no_longer(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_TIMEOUT", 0.01)
    for _ in range(900):
        pipe.log.warning("x" * 100)
    pipe.writer.flush()  # nobody reads: it returns all the same
    monkeypatch.setattr(log_writer, "FLUSH_TIMEOUT", 60.0)
    reader = threading.Thread(target=lambda: pipe.lines(until="last\n"))
    reader.start()
    pipe.log.warning("last")
    pipe.writer.flush()
    assert not pipe.writer._is_behind
    reader.join()


def test_a_process_that_ends_has_written_what_it_logged() -> None:
    script = LOOP.replace("20_000", "20").replace("sys.stdin.readline()", "pass")
    command = [sys.executable, "-c", script]
    with ended(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as process:
        _, said = process.communicate()
    assert json.loads(said.splitlines()[-1])["event"] == "last"
    assert len(said.splitlines()) == 21


def test_what_a_patient_process_has_logged_is_there_when_it_crashes() -> None:
    command = [sys.executable, "-c", CRASH]
    with ended(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as process:
        _, said = process.communicate()
    assert [json.loads(line)["number"] for line in said.splitlines()] == [0, 1, 2, 3, 4]


def test_patience_ends_with_the_first_line_that_nobody_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = Pipe(1_000_000, patience=0.01)
    waited: list[float] = []
    written_within = pipe.writer._written_within

    def counted(seconds: float) -> bool:
        waited.append(seconds)
        return written_within(seconds)

    monkeypatch.setattr(pipe.writer, "_written_within", counted)
    pipe.log.warning("x" * 500_000)
    for _ in range(100):
        pipe.log.warning("line")
    assert waited == [0.01]
    pipe.lines(until="line\n" * 100)
    pipe.writer.flush()
    pipe.log.warning("again")
    assert len(waited) == 3
    os.close(pipe.read_end)
