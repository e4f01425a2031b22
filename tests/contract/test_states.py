"""The table of a task's states agrees with its page, with results, and with what is decided."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from documents import arrows
from maniple.attempts import NextAttempt, Ran, conclude
from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed
from maniple.messages import Envelope, Result, Status
from maniple.tasks import define
from maniple_agent.domain.redelivery import Move, after_loss, after_stop
from maniple_runtime.states import TERMINAL, TRANSITIONS, TaskState, is_terminal, may_follow
from paths import ROOT

PAGE = ROOT / "docs" / "states" / "task.md"
NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
TASK = Envelope(
    id="1", capability="a", lane="a", submitted_at=NOW, deadline=NOW + timedelta(hours=1)
)
HANDLER = define("a", lambda payload: payload, {"max_attempts": 2})


def test_the_page_draws_the_table() -> None:
    table = {(before or "[*]", after, why) for (before, why), after in TRANSITIONS.items()}
    assert set(arrows(PAGE)) == table


def test_the_terminal_states_are_the_statuses_of_a_result() -> None:
    assert {state.value for state in TERMINAL} == {status.value for status in Status}


def test_nothing_leaves_a_terminal_state_and_every_other_state_has_a_way_out() -> None:
    left = {before for before, _ in TRANSITIONS if before is not None}
    assert left == {state for state in TaskState if not is_terminal(state)}


@pytest.mark.parametrize("start", [state for state in TaskState if state not in TERMINAL])
def test_every_end_can_be_reached_from_anywhere_but_only_what_is_new_is_rejected(
    start: TaskState,
) -> None:
    reached, seen = {start}, set[TaskState]()
    while reached:
        seen |= reached
        reached = {s for s in TaskState if any(may_follow(r, s) for r in reached)} - seen
    rejected = {TaskState.REJECTED}
    assert seen & TERMINAL == (TERMINAL if start is TaskState.SUBMITTED else TERMINAL - rejected)


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize(
    "outcome",
    [Outcome(b"1"), failed(ErrorCode.HANDLER_ERROR, "no"), failed(ErrorCode.TIMEOUT, "late")],
    ids=["returned", "failed", "timed out"],
)
@pytest.mark.parametrize("late", [False, True])
def test_what_an_agent_concludes_may_follow_running(
    outcome: Outcome, attempt: int, late: bool
) -> None:
    task = replace(TASK, attempt=attempt)
    finished = task.deadline if late else NOW
    decision = conclude(task, HANDLER, outcome, Ran("agent-1", NOW, finished), lambda: 0.0)
    after = TaskState.RETRYING if isinstance(decision, NextAttempt) else TaskState(decision.status)
    assert may_follow(TaskState.RUNNING, after)


@pytest.mark.parametrize("suspected", [0, 4])
def test_what_a_loss_leads_to_may_follow_running(suspected: int) -> None:
    task = replace(TASK, suspected=suspected)
    fate = after_loss(task, HANDLER, Ran("agent-1", None, NOW), suspect=True)
    assert isinstance(fate, Result) == (suspected == 4)
    assert all(may_follow(TaskState.RUNNING, after) for after in states_after(fate))


@pytest.mark.parametrize("on_lost", ["retry", "fail"])
def test_what_stopping_leads_to_may_follow_running(on_lost: Any) -> None:
    handler = define("a", lambda payload: payload, {"on_lost": on_lost})
    fate = after_stop(TASK, handler, Ran("agent-1", NOW, NOW), "a")
    assert isinstance(fate, Result) == (on_lost == "fail")
    assert all(may_follow(TaskState.RUNNING, after) for after in states_after(fate))


def states_after(fate: Result | Move) -> list[TaskState]:
    """Return what a task can be in that moves: its lane takes it, or is full."""
    if isinstance(fate, Result):
        return [TaskState(fate.status)]
    return [TaskState.ACCEPTED, TaskState.WAITING]
