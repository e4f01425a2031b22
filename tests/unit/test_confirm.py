"""A lane that does not confirm is told from a broker that stands still."""

from maniple.timings import Queues
from maniple_runtime.publish.confirm import InFlightPublishes

PATIENCE = Queues().patience
STUCK = ("maniple.lanes", "stuck")
WELL = ("maniple.lanes", "well")


def items(under_way: InFlightPublishes[str], now: float) -> list[str]:
    return [ticket.item for ticket in under_way.overdue(now)]


def test_what_is_not_confirmed_is_given_up_once_something_later_is() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    first, second = (under_way.begin(STUCK, name, 10.0) for name in ("a", "b"))
    later = under_way.begin(WELL, "c", 10.0 + PATIENCE)
    assert under_way.end(later)
    assert items(under_way, 10.0 + PATIENCE - 0.01) == []
    assert items(under_way, 10.0 + PATIENCE) == ["a", "b"]
    assert items(under_way, 100.0) == []
    assert under_way.is_given_up(first)
    assert not under_way.end(first)
    assert not under_way.end(second)


def test_while_the_broker_stands_still_one_copy_is_made_at_most() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    tickets = [under_way.begin(STUCK, str(n), 10.0) for n in range(3)]
    assert items(under_way, 10.0 + PATIENCE) == ["0"]
    assert items(under_way, 11.0 + PATIENCE) == []
    assert [under_way.end(ticket) for ticket in tickets] == [False, True, True]
    assert items(under_way, 20.0 + PATIENCE) == []


def test_the_answer_to_the_copy_says_that_the_lane_alone_is_stuck() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    for number in range(3):
        under_way.begin(STUCK, str(number), 10.0)
    assert items(under_way, 11.0 + PATIENCE) == ["0"]
    under_way.answered(10.0 + PATIENCE)  # of something sent before the copy
    assert items(under_way, 11.5 + PATIENCE) == ["1", "2"]
    under_way.begin(STUCK, "new", 11.5)
    under_way.answered(11.0 + PATIENCE)  # the copy
    assert items(under_way, 12.0 + PATIENCE) == ["new"]


def test_time_in_which_the_broker_took_nothing_does_not_count() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    under_way.begin(WELL, "a", 10.0)
    under_way.renew(10.0 + PATIENCE)
    assert items(under_way, 10.0 + PATIENCE) == []
    assert items(under_way, 10.0 + 2 * PATIENCE) == ["a"]


def test_what_there_may_be_no_copy_of_is_waited_for_and_blocks_nothing_behind_it() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    once = under_way.begin(STUCK, "once", 10.0, may_copy=False)
    under_way.begin(STUCK, "a", 11.0)
    assert under_way.waited_for(10.0 + PATIENCE - 0.01) == set()
    assert under_way.waited_for(10.0 + PATIENCE) == {STUCK}
    assert items(under_way, 11.0 + PATIENCE) == ["a"]  # the oldest that there may be two of
    assert items(under_way, 100.0) == []
    assert under_way.end(once)
    assert under_way.waited_for(100.0) == set()


def test_what_was_never_sent_proves_nothing_of_the_broker() -> None:
    under_way: InFlightPublishes[str] = InFlightPublishes()
    for number in range(3):
        under_way.begin(WELL, str(number), 10.0)
    behind = under_way.begin(STUCK, "behind", 10.0 + PATIENCE)
    assert items(under_way, 10.0 + PATIENCE) == ["0"]
    assert under_way.withdraw(behind)
    assert items(under_way, 11.0 + PATIENCE) == []
