"""Free TCP ports on the loopback interface, which no two clusters take at once."""

import fcntl
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range from which Linux (32768) and macOS (49152) take ports for outgoing connections:
# such a connection could otherwise take a port between our choice of it and its use.
FIRST, LAST = 10_000, 32_700
ATTEMPTS = 1_000
LOCK_SECONDS = 1.0
LOCK_POLL = 0.01
CHOSEN_FOR = 120.0  # seconds in which who has chosen a port has begun to listen, or never will


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nobody uses now.

    None of them was returned to another process of this user in the last two minutes: a server that
    is to listen there may only be starting. Raises `OSError` if there are not enough.
    """
    with _chosen() as chosen, ExitStack() as stack:
        ports: list[int] = []
        for _ in range(ATTEMPTS):
            if len(ports) == count:
                now = time.time()
                chosen.update((str(port), now) for port in ports)
                return ports
            port = random.randint(FIRST, LAST)
            if str(port) in chosen:
                continue
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
                probe.listen(1)
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports between {FIRST} and {LAST}")


@contextmanager
def _chosen() -> Iterator[dict[str, float]]:
    """Give the ports chosen lately, each with its time, and save those that the block adds.

    Empty where there is no folder of our own to save them in, or its content is not valid.
    """
    folder = Path(tempfile.gettempdir()) / f"maniple-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise PermissionError(f"{folder} is somebody else's")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.fdopen(os.open(folder / "ports.json", flags, 0o600), "r+", errors="replace")
    except OSError:
        yield {}
        return
    with file:
        if not _locked(file.fileno()):  # who holds it stands still
            yield {}
            return
        chosen = _read(file.read(), time.time())
        yield chosen
        file.seek(0)
        file.truncate()
        json.dump(chosen, file)


def _locked(file: int) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_POLL)
        else:
            return True
    return False


def _read(text: str, now: float) -> dict[str, float]:
    try:
        entries = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return {}
    return {
        str(port): float(when)
        for port, when in entries.items()
        if isinstance(when, int | float) and now - CHOSEN_FOR < when <= now
    }
