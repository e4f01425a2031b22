"""CPU-bound handlers, in worker processes that end at the timeout and are replaced."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from time import monotonic

import msgspec
import structlog

from maniple.codec import encode
from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed, timed_out
from maniple_agent.executors.frames import LENGTH, Call, Reply, framed
from maniple_agent.executors.jobs import Job, Report, Spawn

START_TIMEOUT = 60.0
RESTART_PAUSE = 1.0
# What reading from a worker raises that has ended, or that somebody else wrote for.
ENDED = (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError)

_decode_reply = msgspec.json.Decoder(Reply).decode


class ProcessExecutor:
    """Runs up to `capacity` handlers at once, each in a worker process of its own."""

    def __init__(
        self, capacity: int, agent: str, report: Report, *, handlers: Sequence[str], memory: int
    ) -> None:
        """Import `handlers` in each worker; `memory` is bytes of its address space."""
        self.capacity = capacity
        self._agent = agent
        self._report = report
        self._handlers = list(handlers)
        self._memory = memory
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._busy = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger("maniple.agent.executor")

    @property
    def free(self) -> int:
        """Jobs that can be run now."""
        return self.capacity - self._busy

    async def start(self, spawn: Spawn) -> None:
        """Start a keeper for each worker process."""
        self._keepers = [
            spawn(self._keep(), f"worker-{number}") for number in range(1, self.capacity + 1)
        ]

    async def stop(self) -> None:
        """Kill the workers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def run(self, jobs: Sequence[Job]) -> None:
        """Give jobs to workers."""
        for job in jobs:
            self._busy += 1
            self._jobs.put_nowait(job)

    async def _keep(self) -> None:
        """Keep one worker alive and feed it."""
        while True:
            try:
                worker = await _Worker.start(self._handlers)
            except (TimeoutError, *ENDED) as error:
                self._log.error("a worker process does not start", reason=repr(error))
                self._fail_one(f"no worker process starts: {error!r}")
                await asyncio.sleep(RESTART_PAUSE)
                continue
            try:
                while worker.is_alive():
                    job = await self._jobs.get()
                    if not await self._begins(worker, job):
                        self._jobs.put_nowait(job)
                        break
                    await self._serve(worker, job)
            finally:
                await worker.kill()

    async def _begins(self, worker: "_Worker", job: Job) -> bool:
        """Hand a job to a worker; False if that died while it had nothing to do."""
        envelope = job.envelope
        call = Call(
            capability=envelope.capability,
            task_id=envelope.id,
            attempt=envelope.attempt,
            deadline=envelope.deadline,
            timeout=job.timeout,
            memory=job.definition.memory or self._memory,
            payload=envelope.payload,
            tenant=envelope.tenant,
            labels=envelope.labels,
            agent=self._agent,
            traceparent=envelope.traceparent,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await worker.send(call)
                await worker.receive()
        except (TimeoutError, *ENDED):
            return False
        return True

    def _fail_one(self, why: str) -> None:
        """End a job that waits for a worker, so that it does not wait for ever."""
        with contextlib.suppress(asyncio.QueueEmpty):
            self._end(self._jobs.get_nowait(), failed(ErrorCode.HANDLER_CRASHED, why), 0.0)

    def _end(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self._busy -= 1
        job.settled = True
        self._report.outcome(job, outcome, seconds)
        self._report.slots_free()

    async def _serve(self, worker: "_Worker", job: Job) -> None:
        started = monotonic()
        try:
            async with asyncio.timeout(job.timeout):
                outcome, seconds = await self._call(worker, job)
        except TimeoutError:
            await worker.kill()
            outcome, seconds = timed_out(job.timeout), monotonic() - started
        except ENDED:
            code = await worker.kill()
            seconds = monotonic() - started
            outcome = failed(
                ErrorCode.HANDLER_CRASHED, f"the worker process ended: {_how_it_ended(code)}"
            )
        self._end(job, outcome, seconds)

    async def _call(self, worker: "_Worker", job: Job) -> tuple[Outcome, float]:
        while True:
            reply = await worker.receive()
            if not reply.progress:
                outcome = Outcome(bytes(reply.value), reply.failure, reply.retryable)
                return outcome, reply.seconds
            self._report.progress(job, reply.value)


class _Worker:
    """One worker process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._lifeline: int | None = lifeline

    def is_alive(self) -> bool:
        return self._lifeline is not None and self._process.returncode is None

    @classmethod
    async def start(cls, handlers: Sequence[str]) -> "_Worker":
        ours, theirs = socket.socketpair()
        lifeline_read, lifeline_write = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "maniple_agent.executors.worker",
            str(theirs.fileno()),
            str(lifeline_read),
            *handlers,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # so that what a handler starts ends with it
            pass_fds=(theirs.fileno(), lifeline_read),
        )
        theirs.close()
        os.close(lifeline_read)
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = cls(process, reader, writer, lifeline_write)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await worker.receive()
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def send(self, call: Call) -> None:
        self._writer.write(framed(encode(call)))
        await self._writer.drain()

    async def receive(self) -> Reply:
        header = await self._reader.readexactly(LENGTH.size)
        return _decode_reply(await self._reader.readexactly(LENGTH.unpack(header)[0]))

    async def kill(self) -> int | None:
        """End the process and return its exit code."""
        if self._lifeline is None:
            return self._process.returncode
        os.close(self._lifeline)
        self._lifeline = None
        with contextlib.suppress(ProcessLookupError):
            # One that died by itself keeps its own exit code.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._writer.close()
        return await self._process.wait()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"
