"""What limits are divided by. Pure."""

from collections.abc import Sequence

from maniple.messages import Envelope

LABEL = "label:"


def value_of(task: Envelope, key: str) -> str:
    """Return what a limit is divided by: the capability, the tenant, or a label."""
    if key.startswith(LABEL):
        return task.labels.get(key.removeprefix(LABEL), "")
    return task.capability if key == "capability" else task.tenant


def divided(name: str, per: Sequence[str], task: Envelope) -> str:
    """Return the key of a task's part of a limit."""
    return "\0".join([name, *[value_of(task, key) for key in per]]) if per else name
