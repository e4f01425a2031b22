"""A worker process as its agent sees it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from maniple.codec import encode
from maniple.forks import keep_from_children
from maniple_agent.executors import cgroups
from maniple_agent.executors.frames import LENGTH, WorkerCall, WorkerReply, framed
from maniple_agent.pids import exists

START_TIMEOUT = 60.0
# What reading from a worker raises that has ended, or that somebody else wrote for.
ENDED = (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError)

_decode_reply = msgspec.json.Decoder(WorkerReply).decode


class Worker:
    """One worker process and the socket to it; reading from one that has ended raises `ENDED`.

    That it has ended is learned from the process: what it has started may hold its socket open.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        connection: socket.socket,
        lifeline: int,
    ) -> None:
        """Keep what `start_process` made; `connection` is the socket of `reader` and `writer`."""
        self.group: Path | None = None
        """Its cgroup, if it has one of its own."""
        self._process = process
        self._reader = reader
        self._writer = writer
        self._connection = connection
        self._lifeline: int | None = lifeline
        self.ended = asyncio.create_task(process.wait(), name="worker-ended")
        self.ended.add_done_callback(lambda _: self._bury())

    def is_alive(self) -> bool:
        """Tell whether it can be given something."""
        return self._lifeline is not None and self._process.returncode is None

    @classmethod
    async def start_process(
        cls,
        handlers: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        group: Path | None = None,
    ) -> "Worker":
        """Start a process that has imported `handlers`, in `folder`, with these variables.

        It enters the cgroup `group` before it imports anything of them.

        Raises `TimeoutError` or `ENDED`.
        """
        if group is not None:
            environment = {**environment, cgroups.VARIABLE: str(group)}
        with contextlib.ExitStack() as opened:
            ours, theirs = socket.socketpair()
            opened.callback(ours.close)
            with theirs:
                lifeline_read, lifeline_write = os.pipe()
                opened.callback(os.close, lifeline_write)
                keep_from_children(ours.fileno())
                keep_from_children(lifeline_write)
                try:
                    process = await _spawned(
                        theirs.fileno(), lifeline_read, handlers, environment, folder
                    )
                finally:
                    os.close(lifeline_read)
            reader, writer = await asyncio.open_connection(sock=ours)
            opened.pop_all()
        worker = cls(process, reader, writer, connection=ours, lifeline=lifeline_write)
        worker.group = group
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await worker.receive()
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def send_call(self, call: WorkerCall) -> None:
        """Hand a call over."""
        self._writer.write(framed(encode(call)))
        await self._writer.drain()

    async def receive(self) -> WorkerReply:
        """Return what it says next."""
        header = await self._reader.readexactly(LENGTH.size)
        return _decode_reply(await self._reader.readexactly(LENGTH.unpack(header)[0]))

    async def kill(self) -> int | None:
        """End the process and return its exit code."""
        if self._lifeline is None:
            return self._process.returncode
        self.strike()
        os.close(self._lifeline)
        self._lifeline = None
        self._writer.close()
        return await self._process.wait()

    def strike(self) -> None:
        """Kill the process and what it has started; who reads from it learns that it ended."""
        if self._process.returncode is not None and exists(self._process.pid):
            return  # its group was empty, or nobody else could have got its number
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # One that died by itself keeps its own exit code.
            os.killpg(self._process.pid, signal.SIGKILL)

    def _bury(self) -> None:
        """End what a dead process leaves, and let what it said last be read to its end."""
        self.strike()
        with contextlib.suppress(OSError):  # it is closed
            self._connection.shutdown(socket.SHUT_RD)


async def _spawned(
    connection: int,
    lifeline: int,
    handlers: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # what is called like a module of ours in that folder is not imported for it
        "-m",
        "maniple_agent.executors.worker",
        str(connection),
        str(lifeline),
        str(os.getpid()),
        *handlers,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # so that what a handler starts ends with it
        pass_fds=(connection, lifeline),
    )
