"""Writing log lines from a thread: logging never waits for the reader.

A pipe that nobody reads is full after 64 KiB; an event loop that writes to it would stand still
then, and with it the heartbeats of its process.
"""

import logging
import os
import select
import threading
from queue import SimpleQueue
from time import monotonic, sleep

MOST_BYTES = 8 * 1024**2
FLUSH_TIMEOUT = 1.0  # seconds that the end of the process waits for what is left
_POLL = 0.0005


class LogWriter(logging.Handler):
    """Writes lines to a descriptor, at most 8 MiB behind; further lines are dropped and counted.

    A line reports the number dropped once there is room again. Lines that are left when the process
    is killed, or that cannot be written within a second of its end, are lost.
    """

    def __init__(
        self, descriptor: int, most_bytes: int = MOST_BYTES, patience: float = 0.0
    ) -> None:
        """Write to `descriptor`; the thread starts with the first line.

        The caller waits up to `patience` seconds for each line to be written, until that has once
        been too short: so that the line is there if the process crashes next.
        """
        super().__init__()
        self.dropped = 0
        """Lines that were not written, since the start."""
        self._descriptor = descriptor
        self._most_bytes = most_bytes
        self._patience = patience
        self._is_late = False
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        # Each is written by one side only: those who log, which take turns, and the thread.
        self._put = 0
        self._done = 0
        self._unwritten = 0
        self._overflowed = 0
        self._told = 0
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "replace")
        except Exception:  # noqa: BLE001 - as each handler does: what cannot be told must not end its task
            self.handleError(record)
            return
        if os.getpid() != self._process:
            _write(self._descriptor, line)  # a child that was forked has no thread
        elif self._put - self._done + len(line) > self._most_bytes:
            self._overflowed += 1
            self._count()
        else:
            self._put += len(line)
            self._lines.put(line)
            if self._thread is None:
                self._start()
            if self._patience:
                self._wait_a_little(len(line))

    def _wait_a_little(self, last: int) -> None:
        if self._is_late and self._put - self._done > last:
            return
        self._is_late = not self._written_within(self._patience)

    def flush(self) -> None:
        """Return when all lines are written, or after a second."""
        self._written_within(FLUSH_TIMEOUT)

    def _written_within(self, seconds: float) -> bool:
        until = monotonic() + seconds
        while self._is_behind and monotonic() < until:
            sleep(_POLL)
        return not self._is_behind

    @property
    def _is_behind(self) -> bool:
        return self._done < self._put and self._thread is not None and os.getpid() == self._process

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="logs", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return  # with the next line, perhaps
        self._thread = thread

    def _serve(self) -> None:
        while True:
            line = self._lines.get()
            if not _write(self._descriptor, line):
                self._unwritten += 1
                self._count()
            if self._overflowed > self._told and self._lines.empty():
                self._tell()
            self._done += len(line)

    def _tell(self) -> None:
        """Write how many lines are missing before this one."""
        missing, self._told = self._overflowed - self._told, self._overflowed
        said = {
            "name": "maniple.logs",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log lines were dropped: nobody read them in time",
            "args": (missing,),
        }
        _write(self._descriptor, f"{self.format(logging.makeLogRecord(said))}\n".encode())

    def _count(self) -> None:
        self.dropped = self._overflowed + self._unwritten


def _write(descriptor: int, line: bytes) -> bool:
    """Write all of a line, however long that takes; False if nobody can read it."""
    left = memoryview(line)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # Somebody with whom it is shared does not want to wait for it; we do.
            select.select((), (descriptor,), ())
        except (OSError, ValueError):
            return False
    return True
