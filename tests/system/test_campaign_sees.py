"""That a campaign would see what it looks for in a row: each thing that can go wrong, made to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from maniple.messages import Status
from maniple_runtime.records import TaskKey
from system.campaign.client_history import Told
from system.campaign.history import TENANT, History, Look
from system.campaign.matrix import markdown_of
from system.campaign.moves import moves
from system.campaign_case import STRUCK, Case

LATER = {"t2": STRUCK + 8.0}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "journal").good()


def test_what_is_as_it_should_be_is_no_problem(case: Case) -> None:
    row = case.row()
    assert row.problems == ()
    assert (row.lost, row.moved, row.migrated, row.re_executed, row.late) == (0, 1, 0.5, 2, 0)
    assert (row.moved_later, row.migrated_later) == (1, 9.5)
    assert (row.failed, row.whole) == (3.0, 4.0)


def forget_the_end(case: Case) -> None:
    case.history.ledger = History().ledger


def forget_to_confirm(case: Case) -> None:
    case.client_history.confirmed.remove("t1")


def forget_to_tell(case: Case) -> None:
    case.client_history.told.clear()


def tell_another_end(case: Case) -> None:
    case.client_history.told["t1"] = Told("failed", None)


def end_otherwise(case: Case) -> None:
    case.history.ledger = History().ledger
    case.ended(0, Status.FAILED)


def return_something_else(case: Case) -> None:
    case.client_history.told["t1"] = Told("succeeded", 2.0)


def record_something_else(case: Case) -> None:
    case.history.outputs[TaskKey(TENANT, "t1")] = 2.0


def run_elsewhere_too_late(case: Case, after: float = 1.5) -> None:
    case.forget_runs()
    case.ran("a1", -0.5)
    case.ran("a2", after)


def run_elsewhere_too_late_with_affinity(case: Case) -> None:
    case.forget_runs()
    case.ran("a1", -0.5, task="t2")
    case.ran("a2", 11.5, task="t2")


def wait_at_home_for_too_long(case: Case) -> None:
    case.forget_runs()
    case.ran("a2", 11.5, task="t2")


def move_nothing(case: Case) -> None:
    case.forget_runs()
    case.ran("a1", -0.5)


def move_nothing_with_affinity(case: Case) -> None:
    case.forget_runs()
    case.ran("a1", -0.5, task="t2")


def hold_nothing(case: Case) -> None:
    case.forget_runs()


def never_be_whole(case: Case) -> None:
    case.history.looks.insert(1, Look(STRUCK + 4.5, None, frozenset()))


def never_be_ready(case: Case) -> None:
    case.history.looks = [replace(look, unready=frozenset({"a2"})) for look in case.history.looks]


def be_whole_too_late(case: Case) -> None:
    case.history.looks.clear()
    case.shown(10.5, "2")
    case.shown(11.5, "2")


def inject_nothing(case: Case) -> None:
    case.incident.problems.append("no connection was cut")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (forget_the_end, "have no terminal result"),
        (forget_to_confirm, "1 submissions were never confirmed: t1"),
        (forget_to_tell, "told nothing"),
        (tell_another_end, "was told failed"),
        (end_otherwise, "t1 ended failed (None)"),
        (return_something_else, "t1 returned 2.0 in place of 1.0, says its submitter"),
        (record_something_else, "t1 returned 2.0 in place of 1.0, says the records"),
        (run_elsewhere_too_late, "a task ran elsewhere only after 1.5 s"),
        (run_elsewhere_too_late_with_affinity, "with affinity ran elsewhere only after 11.5 s"),
        (wait_at_home_for_too_long, "1 tasks with affinity waited for up to 11.5 s: t2"),
        (move_nothing, "1 tasks of what was hit never ran elsewhere: t1"),
        (move_nothing_with_affinity, "1 tasks of what was hit never ran elsewhere: t2"),
        (hold_nothing, "had no tasks that had to move"),
        (never_be_whole, "not everything worked again"),
        (never_be_ready, "not everything worked again"),
        (be_whole_too_late, "everything worked again only after 10.5 s"),
        (inject_nothing, "no connection was cut"),
    ],
)
def test_what_goes_wrong_is_said(case: Case, spoil: Callable[[Case], None], said: str) -> None:
    spoil(case)
    assert said in case.said


def test_what_the_machine_held_up_is_no_fault_of_who_moves_tasks(case: Case) -> None:
    run_elsewhere_too_late(case, 1.2)
    case.courier.trips = [(STRUCK - 1.0, 0.01), (STRUCK - 0.5, 0.01), (STRUCK + 0.2, 0.12)]
    assert "ran elsewhere only after" not in case.said
    case.courier.trips[-1] = (STRUCK + 0.2, 0.06)
    assert "a task ran elsewhere only after 1.2 s (0.1 s held up)" in case.said
    case.courier.trips[-1] = (STRUCK + 2.0, 5.0)  # when all had moved
    assert "a task ran elsewhere only after 1.2 s (0.0 s held up)" in case.said


def test_the_machine_is_to_blame_for_a_quarter_of_the_bound_at_most(case: Case) -> None:
    run_elsewhere_too_late(case, 1.3)
    case.courier.trips = [(STRUCK - 1.0, 0.01), (STRUCK - 0.5, 0.01), (STRUCK + 0.2, 5.0)]
    assert "a task ran elsewhere only after 1.3 s" in case.said
    assert case.courier.held_up(STRUCK, STRUCK + 6.0, 1.0) == 0.25
    assert case.courier.held_up(STRUCK, STRUCK + 6.0, 10.0) == 1.0  # and for no more than this


def test_a_pause_in_the_work_is_told_where_work_has_to_go_on(case: Case) -> None:
    case.alive()
    case.incident.over = STRUCK + 8.0
    case.fault = replace(case.fault, works_meanwhile=True)
    case.client_history.news = [STRUCK + after for after in (-1.0, 2.0, 4.5, 7.0, 9.0)]
    assert "no task ended" not in case.said
    case.client_history.news = [STRUCK + after for after in (-1.0, 2.0, 7.0, 9.0)]
    assert "no task ended for 5.0 s while work had to go on" in case.said
    case.client_history.news = [STRUCK - 1.0, STRUCK + 9.0]
    assert "no task ended for 8.0 s while work had to go on" in case.said
    case.fault = replace(case.fault, works_meanwhile=False)
    assert "no task ended" not in case.said


def test_a_task_that_came_after_the_fault_is_judged_from_when_it_came(case: Case) -> None:
    ends = {"t2": case.evidence.ends("t2")}
    found = [moves(case.incident, ends, case.evidence.journal, came) for came in ({}, LATER)]
    assert found == [{"t2": 9.5}, {"t2": 1.5}]


def test_a_late_result_is_counted_and_changes_nothing(case: Case) -> None:
    case.ended(2, Status.FAILED)
    row = case.row()
    assert (row.late, row.problems) == (1, ())


def test_a_task_that_had_ended_when_its_agent_was_killed_need_not_move(case: Case) -> None:
    case.forget_runs()
    case.ran("a1", -0.5, 0.1)
    assert "never ran elsewhere" not in case.said


def test_the_matrix_shows_a_row_as_it_is(case: Case) -> None:
    *_, last = markdown_of([case.row()]).splitlines()
    shown = "| an agent is killed | 2 | failed 3.0 s | 1 in 0.50 s | 1 in 9.50 s | 4.0 s | 2 |"
    assert last == f"{shown} 0 | 0 |"
