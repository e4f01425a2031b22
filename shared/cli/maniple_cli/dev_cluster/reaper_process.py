"""The reaper: ends what its parent started when the parent is gone, however that ended.

Run as `python -S -E reaper_process.py` with a pipe from the parent as its standard input. Each line
is `watch group N`, `watch folder PATH`, or the same with `forget`. At the end of the pipe it sends
SIGTERM to the remaining process groups, SIGKILL after up to 5 s, and removes the folders. It
imports nothing but the standard library, so that it starts fast and stays small.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from typing import TextIO

GRACE = 5.0
POLL = 0.05


def read(lines: TextIO) -> tuple[list[int], list[str]]:
    """Read the parent's lines until it is gone; return the remaining groups and folders."""
    watched: dict[str, None] = {}
    for line in lines:
        verb, _, thing = line.rstrip("\n").partition(" ")
        if verb == "watch":
            watched[thing] = None
        else:
            watched.pop(thing, None)
    groups = [int(thing[6:]) for thing in watched if thing.startswith("group ")]
    return groups, [thing[7:] for thing in watched if thing.startswith("folder ")]


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:  # gone, or (on macOS) only zombies are left
        return False
    return True


def reap(groups: list[int], folders: list[str]) -> None:
    """End `groups` and remove `folders`."""
    alive = [group for group in reversed(groups) if _signal(group, signal.SIGTERM)]
    deadline = time.monotonic() + GRACE
    while alive and time.monotonic() < deadline:
        time.sleep(POLL)
        alive = [group for group in alive if _signal(group, 0)]
    for group in alive:
        _signal(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run; ignores every signal that a terminal or a supervisor sends to the parent's processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    reap(*read(sys.stdin))


if __name__ == "__main__":
    main()
