"""One child process: its log, its death, its restart."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from maniple.loops import end
from maniple_cli.dev_cluster.errors import ServerMissing
from maniple_cli.dev_cluster.reaper import ProcessReaper

TAIL_LINES = 20
TAIL_BYTES = 16_384
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 15.0
STEADY_AFTER = 30.0  # a child that lived this long starts again with the first backoff


class ChildState(StrEnum):
    """The state of a child process."""

    NEW = "new"
    RUNNING = "running"
    WAITING = "restarting"
    ENDED = "ended"


UMASK = 0o077  # logs and the broker's files have payloads in them, others passwords


@dataclass(frozen=True)
class ChildSpec:
    """What to run: `argv` with `env` added to ours, its output appended to `log`."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Death:
    """A child ended that nobody had stopped. `code` is negative for a signal, as in subprocess."""

    name: str
    pid: int
    code: int
    tail: str
    restart_in: float | None

    @property
    def cause(self) -> str:
        """`exit status 1` or `SIGKILL`."""
        if self.code >= 0:
            return f"exit status {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"

    @property
    def is_failure(self) -> bool:
        """Whether the child failed by itself, rather than being ended from outside."""
        return self.code not in {0, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT}


def tail_of(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log file, or a remark that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        text = ""
    return "\n".join(text.rstrip().splitlines()[-lines:]) or "(its log is empty)"


class Child:
    """A supervised child in a process group of its own, known to the reaper.

    `restart` may be changed at any time: while it is false, a death is final. `on_death` is called
    for each death that `stop` did not cause. A dead child's whole group is killed, so that worker
    processes do not outlive it.
    """

    def __init__(
        self,
        spec: ChildSpec,
        reaper: ProcessReaper,
        *,
        restart: bool = False,
        on_death: Callable[[Death], None] | None = None,
    ) -> None:
        self.spec = spec
        self.restart = restart
        self.restarts = 0
        self.state = ChildState.NEW
        self.last_death: Death | None = None
        self._reaper = reaper
        self.on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff = FIRST_BACKOFF

    @property
    def pid(self) -> int:
        """Process id of the present or last life; 0 before the first."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process is there now."""
        return self.state is ChildState.RUNNING

    async def start_process(self) -> None:
        """Start the process and watch it; returns at once. Raises `ServerMissing`."""
        process = await self._spawn()
        self._supervisor = asyncio.create_task(
            self._supervise(process), name=f"child {self.spec.name}"
        )

    async def stop(self, seconds: float) -> None:
        """End the process: SIGTERM to it, SIGKILL to its group after `seconds`. Idempotent."""
        self.restart = False
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        process = self._process
        if process is not None and self.running:
            await _end(process, seconds)
            self.state = ChildState.ENDED
        await end(supervisor)
        if process is not None:
            self._sweep(process.pid)
        self.state = ChildState.ENDED

    def describe(self) -> str:
        """Return a sentence about the child's state, with the end of its log."""
        how = f"ended with {self.last_death.cause}" if self.last_death else self.state
        return f"{self.spec.name}: {how}; last lines of {self.spec.log}:\n{tail_of(self.spec.log)}"

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(os.open(self.spec.log, flags, 0o600), "ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.spec.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    env={**os.environ, **self.spec.env},
                    start_new_session=True,
                    preexec_fn=partial(os.umask, UMASK),  # uvloop has no umask=
                )
            except FileNotFoundError as error:
                raise ServerMissing(f"{self.spec.name}: {error.filename} is not there") from error
        self._reaper.watch_group(process.pid)
        self._process = process
        self.state = ChildState.RUNNING
        return process

    async def _supervise(self, process: asyncio.subprocess.Process) -> None:
        while True:
            started = time.monotonic()
            code = await process.wait()
            self._sweep(process.pid)
            pause = self._next_pause(time.monotonic() - started) if self.restart else None
            self._tell(Death(self.spec.name, process.pid, code, tail_of(self.spec.log), pause))
            if pause is None:
                return
            await asyncio.sleep(pause)
            process = await self._spawn()
            self.restarts += 1

    def _next_pause(self, lived: float) -> float:
        if lived >= STEADY_AFTER:
            self._backoff = FIRST_BACKOFF
        pause = self._backoff * random.uniform(0.5, 1.0)
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
        return pause

    def _tell(self, death: Death) -> None:
        if self._supervisor is None:  # it was stopped
            return
        self.last_death = death
        self.state = ChildState.ENDED if death.restart_in is None else ChildState.WAITING
        if self.on_death:
            self.on_death(death)

    def _sweep(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        self._reaper.forget_group(group)


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
