"""What really ran, from the notes that the handlers leave."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Execution:
    """One run of a task's handler; `finished` is None if it never ended. Times are Unix times."""

    task: str
    agent: str
    started: float
    finished: float | None = None


class Journal:
    """All executions so far, by task, in the order in which they began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._runs: dict[str, Execution] = {}
        self._of_task: dict[str, list[Execution]] = {}

    def read(self) -> None:
        """Take what has been written since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            news = file.read()
        whole, _, _ = news.rpartition(b"\n")
        self._offset += len(whole) + bool(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def of(self, task: str) -> list[Execution]:
        """Return the executions of a task."""
        return self._of_task.get(task, [])

    def held_by(self, agents: Collection[str] | None, at: float) -> Iterator[Execution]:
        """Iterate over what these agents (None: any) had begun and not finished at a time."""
        for run in self._runs.values():
            held = run.started <= at and (run.finished or at + 1) > at
            if held and (agents is None or run.agent in agents):
                yield run

    def __len__(self) -> int:
        return len(self._runs)

    def _take(self, note: dict[str, object]) -> None:
        if "finished" in note:
            self._runs[str(note["run"])].finished = float(str(note["finished"]))
            return
        run = Execution(str(note["task"]), str(note["agent"]), float(str(note["started"])))
        self._runs[str(note["run"])] = run
        self._of_task.setdefault(run.task, []).append(run)
