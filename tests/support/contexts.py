"""What a handler gets as its second parameter, made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from maniple import TaskContext, TaskInfo

NOW = datetime(2029, 12, 31, tzinfo=UTC)
DEADLINE = datetime(2030, 1, 1, tzinfo=UTC)


def context_for(
    capability: str,
    timeout: float,
    *,
    deadline: datetime = DEADLINE,
    report: Callable[[Any], None] | None = None,
) -> TaskContext:
    """Return the context of a first attempt of the task `1`."""
    task = TaskInfo(id="1", capability=capability, submitted_at=NOW, deadline=deadline)
    return TaskContext(task, timeout, report=report)
