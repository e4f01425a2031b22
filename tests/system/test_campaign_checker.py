"""That a campaign would see what is told wrongly of agents."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from system.campaign import checks
from system.campaign.checker import unexplained
from system.campaign.nemesis import Expected, holder_of
from system.campaign_case import STRUCK, Case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "journal").good()


def suspect_another(case: Case) -> None:
    case.suspected("a2", 2.0)


def suspect_the_next_life(case: Case) -> None:
    case.suspected("a1", 5.0, "2")


def forget_the_failure(case: Case) -> None:
    case.history.events.clear()


def tell_the_failure_too_late(case: Case) -> None:
    case.history.events.clear()
    case.failed("a1", 10.5)


def fail_another(case: Case) -> None:
    case.failed("a2", 3.0)


def come_back_as_who_it_was(case: Case) -> None:
    case.shown(6.0, "1")


def show_the_dead_active(case: Case) -> None:
    case.shown(6.0, "1")
    case.shown(12.0, "2")


def show_the_dead_unreachable_for_too_long(case: Case) -> None:
    case.shown(11.0, "1", "unreachable")
    case.shown(12.0, "2")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (suspect_another, "a2 was said to be unreachable, and nothing kept it silent"),
        (suspect_the_next_life, "a1 was said to be unreachable, and nothing kept it silent"),
        (forget_the_failure, "a1 was declared failed never"),
        (tell_the_failure_too_late, "a1 was declared failed only after 10.5 s"),
        (fail_another, "a2 was declared failed after 3.0 s though it lived"),
        (come_back_as_who_it_was, "a1 did not come back as a new incarnation"),
        (show_the_dead_active, "a1 was shown active 6.0 s after it had gone"),
        (show_the_dead_unreachable_for_too_long, "a1 was shown unreachable 11.0 s"),
    ],
)
def test_what_is_told_wrongly_of_a_killed_agent_is_said(
    case: Case, spoil: Callable[[Case], None], said: str
) -> None:
    spoil(case)
    assert said in case.said


def suspect_it_too_late(case: Case) -> None:
    case.history.events.clear()
    case.suspected("a1", 6.0)
    case.failed("a1", 8.5)


def show_it_active(case: Case) -> None:
    case.shown(9.0, "1")


def show_another_life_of_it(case: Case) -> None:
    case.shown(9.0, "")


def suspect_it_long_after(case: Case) -> None:
    case.suspected("a1", 14.0)


def fail_before_the_leader_died(case: Case) -> None:
    case.incident.undecided_until = STRUCK + 8.6


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (suspect_it_too_late, "a1 was suspected only after 6.0 s"),
        (show_it_active, "a1 was shown active 9.0 s after it had gone"),
        (show_another_life_of_it, "a1 was shown active 9.0 s after it had gone"),
        (suspect_it_long_after, "a1 was said to be unreachable, and nothing kept it silent"),
        (fail_before_the_leader_died, "failed after 8.5 s, before who should do it died"),
    ],
)
def test_what_is_told_wrongly_of_a_frozen_agent_is_said(
    case: Case, spoil: Callable[[Case], None], said: str
) -> None:
    assert case.frozen().said == ""
    spoil(case)
    assert said in case.said


def test_a_look_whose_answer_may_be_from_after_the_end_is_not_held_against_anybody(
    case: Case,
) -> None:
    case.frozen().shown(11.5, "1")
    assert "was shown" not in case.said


def test_a_failure_that_comes_after_the_leader_died_is_no_problem(case: Case) -> None:
    case.frozen().incident.undecided_until = STRUCK + 8.4
    assert case.said == ""


def test_who_was_not_suspected_is_named(case: Case) -> None:
    case.frozen().fault = replace(case.fault, expected=Expected.SUSPECTED)
    case.history.events.clear()
    assert "a1 was not suspected" in case.said
    case.suspected("a1", 4.0)
    assert "a1 was not suspected" not in case.said


def test_an_agent_that_is_hit_and_lives_may_be_suspected_only_if_the_fault_shakes_all(
    case: Case,
) -> None:
    assert "a1" not in case.alive().said
    case.suspected("a1", 2.0)
    case.suspected("a2", 2.0)
    for agent in ("a1", "a2"):
        assert f"{agent} was said to be unreachable" in case.said
    case.fault = replace(case.fault, shakes_all=True)
    assert "was said to be unreachable" not in case.said
    case.suspected("a2", 14.5)  # ten seconds after its end
    assert "a2 was said to be unreachable" in case.said


def test_a_suspicion_that_no_row_explains_is_told_whenever_it_was(case: Case) -> None:
    case.frozen()
    assert not list(unexplained(case.history, [(case.fault, case.incident)]))
    case.suspected("a1", -0.5)
    (said,) = unexplained(case.history, [(case.fault, case.incident)])
    assert said.startswith("a1 was said to be unreachable at ")


def test_a_failure_that_no_fault_explains_is_told_whenever_it_was(case: Case) -> None:
    case.failed("a2", -500.0)
    (said,) = checks.false_failures(case.history, {("a1", "1")})
    assert said.startswith("a2 was declared failed at ")


@pytest.mark.parametrize(
    ("body", "holder"),
    [
        ('[{"Session": "s", "Value": "cmVnaXN0cnktMQ=="}]', "registry-1"),
        ('[{"Value": "cmVnaXN0cnktMQ=="}]', ""),
        ("", ""),
    ],
)
def test_only_who_holds_the_lock_leads(body: str, holder: str) -> None:
    assert holder_of(body) == holder
