"""Processes that a test starts, which end with it however it ends."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr


@contextmanager
def ended(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Have it for the block; after it, it is killed if it still runs."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
