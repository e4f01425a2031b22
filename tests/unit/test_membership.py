"""Who is there among the dispatchers, as one of them hears it."""

import pytest

from maniple.timings import Peers as Times
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import ConcurrencyLimit
from maniple_dispatcher.limits.membership import Membership
from maniple_dispatcher.limits.messages import DispatcherReport
from permits import ask_permit

TIMES = Times()
LONG = 10 * TIMES.alive


def heard_both(times: int) -> tuple[Membership, float]:
    """One that has heard itself and another for a while, and when that was last."""
    peers, now = Membership("one", TIMES, 0.0), 0.0
    for _ in range(times):
        now += TIMES.presence
        for name in ("one", "two"):
            peers.heard(name, now, ready=True)
    return peers, now


def test_whoever_is_silent_while_we_hear_ourselves_owns_nothing_after_a_while() -> None:
    peers, begun = heard_both(3)
    for step in range(1, int(2 * TIMES.alive / TIMES.presence)):
        now = begun + step * TIMES.presence
        peers.heard("one", now, ready=True)
        peers.forget_silent(now)
        assert peers.is_counted("two") == (now - begun <= TIMES.alive)


def test_nobody_is_silent_while_we_do_not_hear_even_ourselves() -> None:
    peers, begun = heard_both(3)
    for moment in range(int(LONG / TIMES.look)):
        peers.forget_silent(begun + moment * TIMES.look)
        assert peers.is_counted("two")
        assert peers.unheard_for("two", begun + moment * TIMES.look) <= TIMES.unheard


@pytest.mark.parametrize("first", ["one", "two"])
def test_whoever_is_heard_first_after_that_nobody_was_silent_meanwhile(first: str) -> None:
    peers, begun = heard_both(3)
    peers.heard(first, begun + LONG, ready=True)
    peers.forget_silent(begun + LONG + TIMES.look)
    assert peers.is_counted("two")


def test_who_died_meanwhile_is_missed_from_then_on() -> None:
    peers, begun = heard_both(3)
    heard = begun + LONG
    while heard < begun + LONG + TIMES.alive + TIMES.presence:
        peers.heard("one", heard, ready=True)
        peers.forget_silent(heard)
        heard += TIMES.presence
    assert not peers.is_counted("two")


def coordinator() -> Coordinator:
    return Coordinator("one", LeaseOwner(lambda _: None), 0.0)


def test_who_begins_listens_only_from_when_it_hears_itself() -> None:
    one = coordinator()
    assert not one.make_report(LONG).ready
    one.on_report(DispatcherReport(dispatcher="two", ready=True), LONG)
    assert not one.make_report(LONG).ready
    one.on_report(one.make_report(LONG), LONG)
    assert not one.make_report(LONG + TIMES.listens / 2).ready
    assert one.make_report(LONG + TIMES.listens).ready


def test_whose_word_does_not_come_back_for_long_begins_anew_and_does_not_believe_what_it_said() -> (
    None
):
    one = coordinator()
    one.on_report(one.make_report(0.0), 0.0)
    said = one.make_report(TIMES.listens)
    one.on_report(said, TIMES.listens)
    assert one.peers.is_counted("one")
    one.advance_time(TIMES.listens + TIMES.alive)
    assert one.peers.is_counted("one")
    late = TIMES.listens + 1.1 * TIMES.alive
    one.advance_time(late)
    assert not one.peers.is_counted("one")
    one.on_report(said, late)
    assert not one.peers.is_counted("one")
    one.on_report(one.make_report(late + TIMES.listens), late + TIMES.listens)
    assert one.peers.is_counted("one")


LIMIT = ConcurrencyLimit("bulkhead/it", most=10, lane="text.stats")


def told(one: Coordinator, until: float, *, hears: bool) -> float:
    """Wait for a limit without an owner; return when the task is answered."""
    times: list[float] = []
    now = 0.0
    ask_permit(one, LIMIT, lambda passes, _: times.append(now if passes is None else -1.0), now)
    while not times and now < until:
        now += TIMES.look
        if hears:
            one.on_report(DispatcherReport(dispatcher="one"), now)
        one.advance_time(now)
    return times[0]


def test_who_waits_for_an_owner_waits_longer_while_there_cannot_be_one() -> None:
    assert told(coordinator(), LONG, hears=True) == pytest.approx(TIMES.held, abs=2 * TIMES.look)
    assert told(coordinator(), LONG, hears=False) == pytest.approx(TIMES.deaf, abs=2 * TIMES.look)
