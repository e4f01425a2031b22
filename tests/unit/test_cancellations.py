"""Which tasks are remembered as cancelled, and for how long."""

from datetime import UTC, datetime, timedelta

from maniple_dispatcher.pipeline.verdicts import KEPT, MAX_CANCELLED, Cancellations

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_a_task_is_known_by_tenant_and_id() -> None:
    cancelled = Cancellations()
    assert not cancelled.has("acme", "1")
    cancelled.add_task("acme", "1", NOW)
    assert cancelled.has("acme", "1")
    assert not cancelled.has("other", "1")


def test_the_oldest_are_forgotten_when_there_are_too_many_or_they_are_too_old() -> None:
    cancelled = Cancellations()
    for number in range(MAX_CANCELLED):
        cancelled.add_task("acme", str(number), NOW)
    cancelled.add_task("acme", "0", NOW)  # said again: it is the latest now
    cancelled.add_task("acme", "one more", NOW + timedelta(seconds=1))
    assert [cancelled.has("acme", name) for name in ("0", "1", "2")] == [True, False, True]
    cancelled.add_task("acme", "later", NOW + KEPT)
    assert [cancelled.has("acme", name) for name in ("2", "one more")] == [False, True]
