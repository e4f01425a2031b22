"""What a handler may know of its task, and report while it runs."""

from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import structlog
from msgspec import Struct

from maniple.errors import ProgressDropped
from maniple.messages import TaskInfo
from maniple.traceparent import trace_id_of


class Reported:
    """Whether a progress value was accepted; if not, `refusal` says why. May be awaited too."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: str | None = None) -> None:
        """Set the reason of a refusal, None if it was accepted."""
        self.refusal = refusal

    def __bool__(self) -> bool:
        return self.refusal is None

    def __await__(self) -> Generator[None, None, bool]:
        yield from ()
        return bool(self)


@lru_cache(maxsize=1024)
def _warn_once(capability: str, refusal: str) -> None:
    """Warn the handler's author, but not each time: it may report in a tight loop."""
    log = structlog.get_logger("maniple.task")
    log.warning("progress was dropped", capability=capability, reason=refusal)


current_task: ContextVar["TaskContext | None"] = ContextVar("maniple_current_task", default=None)
"""The task whose handler runs here: log lines written meanwhile are about it."""


class TaskContext(Struct, frozen=True):
    """What a handler gets as its second parameter, if it has one.

    `timeout` is the seconds that this attempt has, `traceparent` its position in its trace.
    """

    task: TaskInfo
    timeout: float
    agent: str = ""
    traceparent: str | None = None
    report: Callable[[Any], None] | None = None

    @property
    def task_id(self) -> str:
        """The task's id; together with the tenant it identifies the task."""
        return self.task.id

    @property
    def capability(self) -> str:
        """The capability that runs."""
        return self.task.capability

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.task.attempt

    @property
    def deadline(self) -> datetime:
        """When the task expires, wherever it is."""
        return self.task.deadline

    @property
    def tenant(self) -> str:
        """The tenant that the task belongs to."""
        return self.task.tenant

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by which policies select the task."""
        return self.task.labels

    @property
    def logger(self) -> Any:
        """A structlog logger bound to the task."""
        return structlog.get_logger("maniple.task").bind(
            task_id=self.task_id,
            capability=self.capability,
            attempt=self.attempt,
            agent=self.agent,
            **({} if self.traceparent is None else {"trace_id": trace_id_of(self.traceparent)}),
        )

    def progress(self, value: Any) -> Reported:
        """Report progress to watchers and the submitter: any JSON value up to 64 KiB.

        At most ten values a second are sent, the latest wins. Returns false for a value that is
        dropped, because it is too large or not JSON. May be awaited; need not be.
        """
        try:
            if self.report is not None:
                self.report(value)
        except ProgressDropped as why:
            _warn_once(self.capability, str(why))
            return Reported(str(why))
        return Reported()
