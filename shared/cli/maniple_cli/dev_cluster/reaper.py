"""The parent's side of the reaper: registers what must not outlive this process."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Self

from maniple_cli.dev_cluster import reaper_process

EXIT_SECONDS = reaper_process.GRACE + 5.0


class ProcessReaper:
    """A small process that ends our children and removes our folders, however we die.

    It holds the read end of a pipe that only this process can write, so it notices even kill -9.
    Whatever was forgotten again is left alone; if nothing is left, closing just ends it.
    """

    def __init__(self) -> None:
        """Start the process, in a session of its own."""
        script = str(Path(reaper_process.__file__))
        self._process = subprocess.Popen(  # noqa: S603 - our own file under our own interpreter
            [sys.executable, "-S", "-E", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Process id of the reaper."""
        return self._process.pid

    def watch_group(self, group: int) -> None:
        """End the process group `group` if this process dies."""
        self._say(f"watch group {group}")

    def forget_group(self, group: int) -> None:
        """Leave `group` alone: it has ended."""
        self._say(f"forget group {group}")

    def watch_folder(self, folder: Path) -> None:
        """Remove `folder` if this process dies."""
        self._say(f"watch folder {folder}")

    def forget_folder(self, folder: Path) -> None:
        """Leave `folder` where it is."""
        self._say(f"forget folder {folder}")

    def end_reaper(self) -> None:
        """End the reaper; it first ends and removes what is still watched."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait(EXIT_SECONDS)

    def _say(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # killed by someone: a clean exit still works
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    def __enter__(self) -> Self:
        """Use it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.end_reaper()
