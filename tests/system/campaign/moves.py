"""What became of the tasks of the agents that a fault hit."""

from collections.abc import Iterator, Mapping

from maniple_runtime.records import End
from system.campaign.journal import Execution, Journal
from system.campaign.nemesis import Incident

MEANWHILE = 0.2  # what ends so soon after the fault was said to begin had ended before it

Ends = Mapping[str, tuple[End, ...]]


def moves(
    incident: Incident, ends: Ends, journal: Journal, came: Mapping[str, float]
) -> dict[str, float]:
    """Return when what the agents that were hit had was running elsewhere, by task (seconds).

    From when they were hit, or from when the task `came` if that was later.
    """
    held = _held(incident, ends, journal)
    # What they had been sent, and had not begun, shows in its result.
    held |= {task for task, found in ends.items() if found and found[0].ending.lost}
    return {
        task: first.started - max(incident.struck, came.get(task, 0.0))
        for task in held
        if (first := next(_elsewhere(journal.of(task), incident), None))
    }


def stuck(incident: Incident, ends: Ends, journal: Journal) -> list[str]:
    """Return which tasks should have moved and did not."""
    moved = moves(incident, ends, journal, {})
    return [
        task
        for task in sorted(_held(incident, ends, journal) - moved.keys())
        if not _needs_no_move(journal.of(task), incident)
    ]


def _held(incident: Incident, ends: Ends, journal: Journal) -> set[str]:
    """Return which of the row's tasks the agents that were hit had begun and not finished."""
    return {run.task for run in journal.held_by(incident.lives, incident.struck)}.intersection(ends)


def _needs_no_move(runs: list[Execution], incident: Incident) -> bool:
    """Whether a task had ended before the fault, or was running elsewhere already."""
    by = incident.struck + MEANWHILE
    return any(run.agent not in incident.lives or (run.finished or by + 1) <= by for run in runs)


def _elsewhere(runs: list[Execution], incident: Incident) -> Iterator[Execution]:
    dead = incident.killed.values()
    for run in runs:
        # The next life of an agent that is dead is elsewhere as well.
        if run.started > incident.struck and (run.agent in dead or run.agent not in incident.lives):
            yield run
