"""What a task may choose itself: up to the `max` of a policy, above which it decides. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import Task
from maniple_policies import Ceiling, Resolved


@dataclass(frozen=True, slots=True)
class Chosen:
    """What holds for a task; `clamped` says what it asked for where it has less."""

    timeout: float | None
    max_attempts: int | None
    clamped: dict[str, float] = field(default_factory=dict)


def chosen(task: Task, decided: Resolved, *, may_refuse: bool) -> Chosen:
    """Choose between what a task says and what the policies say.

    Raises `InvalidMessage` (`forbidden`) for more than a policy that refuses allows, unless the
    task may have been admitted before (not `may_refuse`): then it has the most that is allowed.
    """
    timeout, attempts = task.timeout or decided.timeout, task.max_attempts or decided.attempts
    if decided.most_timeout is None and decided.most_attempts is None:
        return Chosen(timeout, attempts)
    clamped: dict[str, float] = {}
    most = decided.most_timeout
    if most is not None and timeout is not None and timeout > most.value:
        clamped["timeout"] = _above(timeout, "timeout", most, may_refuse=may_refuse)
        timeout = most.value
    most = decided.most_attempts
    if most is not None and attempts is not None and attempts > most.value:
        clamped["max_attempts"] = _above(attempts, "max_attempts", most, may_refuse=may_refuse)
        attempts = int(most.value)
    return Chosen(timeout, attempts, clamped)


def until(
    deadline: datetime,
    taken_at: datetime,
    most: Ceiling,
    clamped: dict[str, float],
    *,
    may_refuse: bool,
) -> datetime:
    """Return when a task expires that lives no longer than a policy allows.

    What it asked for is put into `clamped` where it has less. Raises as `chosen` does.
    """
    latest = taken_at + timedelta(seconds=most.value)
    if deadline <= latest:
        return deadline
    asked = (deadline - taken_at).total_seconds()
    clamped["ttl"] = _above(asked, "ttl", most, may_refuse=may_refuse)
    return latest


def _above(asked: float, name: str, most: Ceiling, *, may_refuse: bool) -> float:
    if most.refuses and may_refuse:
        raise InvalidMessage(
            ErrorCode.FORBIDDEN,
            f"{name} is {asked:g}, and policy {most.policy} allows at most {most.value:g}",
            detail={"field": name, "max": most.value, "policy": most.policy,
                    "version": most.version},
        )  # fmt: skip
    return asked
