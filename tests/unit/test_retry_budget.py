"""`maniple_agent.domain.retry_budget`: retries are a share of what runs."""

from maniple_agent.domain.retry_budget import WINDOW, RetryBudget


def test_when_everything_fails_no_more_than_the_share_is_tried_again() -> None:
    budget, now, again = RetryBudget(), 0.0, 0
    for _ in range(10_000):
        now += 0.001
        budget.record_attempt("lane", now)
        again += budget.allows("lane", 0.2, now)
    assert 0.19 < again / 10_000 <= 0.2


def test_a_single_failure_is_tried_again() -> None:
    budget = RetryBudget()
    budget.record_attempt("lane", 0.0)
    assert budget.allows("lane", 0.01, 0.0)
    budget.record_attempt("lane", 1.0)
    assert not budget.allows("lane", 0.01, 1.0)
    assert budget.allows("lane", 0.01, 2.0 + WINDOW)


def test_lanes_do_not_pay_for_each_other() -> None:
    budget = RetryBudget()
    assert budget.allows("one", 0.1, 0.0)
    assert not budget.allows("one", 0.1, 0.0)
    assert budget.allows("two", 0.1, 0.0)
