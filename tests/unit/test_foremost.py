"""`maniple_dispatcher.limits.foremost`: the first few of very many, found a bit at a time."""

from collections import Counter

import pytest

from maniple.timings import Peers as Times
from maniple_dispatcher.limits import membership
from maniple_dispatcher.limits.foremost import AT_ONCE, MOST_ANEW, Foremost
from maniple_dispatcher.limits.membership import Membership
from maniple_dispatcher.limits.token_bucket import MAX_KEPT, Terms, TokenBuckets

MOST = 50
HOURLY = Terms(rate=5 / 3600, capacity=5.0)
MINUTELY = Terms(rate=1 / 60, capacity=1.0)


class Many:
    """So many ranks, and who looks at them."""

    def __init__(self, number: int) -> None:
        self.ranks: dict[str, float | None] = {str(n): float(n) for n in range(number)}
        self.foremost = Foremost(MOST)
        self.asked = 0

    def rank(self, key: str) -> float | None:
        self.asked += 1
        return self.ranks.get(key)

    def look(self) -> list[str]:
        """Look once; no step of it may take long, nor all of them."""
        before = self.asked
        for _ in self.foremost.refresh_first(self.rank):
            self.check(before)
            before = self.asked
        self.check(before)
        return self.foremost.first

    def go_round(self) -> bool:
        before = self.asked
        found = self.foremost.go_round(self.ranks, self.rank)
        self.check(before)
        return found

    def check(self, before: int) -> None:
        assert self.asked - before <= AT_ONCE


def test_all_that_have_changed_are_looked_at_a_few_at_a_time_and_the_first_are_kept() -> None:
    many = Many(20_000)
    for key in many.ranks:
        many.foremost.changed(key)
    looks = 0
    while many.foremost.behind:
        many.look()
        looks += 1
    assert looks == 20_000 / MOST_ANEW
    assert many.foremost.first == [str(n) for n in range(MOST)]
    assert many.foremost.others == 20_000 - MOST


def test_a_round_finds_what_counts_by_now_and_tells_so_once() -> None:
    many = Many(3 * AT_ONCE)
    for key in many.ranks:
        many.ranks[key] = None
    assert not any(many.go_round() for _ in range(6))
    many.ranks["7"] = 7.0
    assert [many.go_round() for _ in range(3)].count(True) == 1
    assert many.look() == ["7"]
    assert not any(many.go_round() for _ in range(6))


def test_what_has_changed_once_has_its_turn_though_many_others_change_all_the_time() -> None:
    many = Many(4 * MOST_ANEW)
    for key in many.ranks:
        many.foremost.changed(key)
    for _ in range(4):
        for key in list(many.ranks)[MOST:]:
            many.foremost.changed(key)
        many.look()
    assert many.foremost.first == [str(n) for n in range(MOST)]


def test_what_was_left_out_comes_in_when_there_is_room() -> None:
    many = Many(2 * MOST)
    many.go_round()
    many.look()
    for key in many.foremost.first[:10]:
        many.ranks[key] = None
    many.look()
    many.go_round()
    assert many.look() == [str(n) for n in range(10, 10 + MOST)]
    assert many.foremost.others == MOST - 10


def test_of_what_is_there_no_more_nothing_is_remembered() -> None:
    many = Many(2 * MOST)
    many.go_round()
    many.look()
    many.ranks.clear()
    assert many.look() == []
    many.go_round()
    assert many.foremost.others == 0


def slow(buckets: TokenBuckets, now: float) -> set[str]:
    """Return what there is to be written down, when all has been looked at."""
    while True:
        buckets.look_round(lambda _: True, now)
        for _ in buckets.find_slow(lambda _: True, now):
            pass
        if not buckets.behind:
            return {key for key, _, _ in buckets.slow()}


def test_of_more_slow_buckets_than_there_is_room_for_the_emptiest_by_now_are_kept() -> None:
    buckets = TokenBuckets()
    for number in range(2 * MAX_KEPT):
        buckets.take_tokens(f"tenant-{number}", MINUTELY, 1, 0.0)
    buckets.take_tokens("four of five", HOURLY, 4, 30.0)
    assert "four of five" in slow(buckets, 50.0)  # by then the others have five sixths of theirs
    assert buckets.left == MAX_KEPT + 1


def test_what_is_full_by_now_is_not_written_down() -> None:
    buckets = TokenBuckets()
    for number in range(1000):
        buckets.take_tokens(f"tenant-{number}", MINUTELY, 1, 0.0)
    buckets.take_tokens("hourly", HOURLY, 1, 100.0)
    assert slow(buckets, 101.0) == {"hourly"}


def test_thousands_of_slow_buckets_are_kept() -> None:
    buckets = TokenBuckets()
    for number in range(MAX_KEPT):
        buckets.take_tokens(f"tenant-{number}", HOURLY, 1, 0.0)
    assert len(slow(buckets, 1.0)) == MAX_KEPT
    assert buckets.left == 0


def test_the_owners_of_keys_in_use_are_found_once_however_many_others_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed: Counter[str] = Counter()

    def weight(peer: str, key: str) -> tuple[bytes, str]:
        weighed[key] += 1
        return key.encode(), peer

    monkeypatch.setattr(membership, "_weight", weight)
    monkeypatch.setattr(membership, "MAX_OWNERS", 500)
    known = Membership("me", Times(), 0.0)
    known.heard("me", 0.0, ready=True)
    for round_ in range(100):
        for number in range(400):
            assert known.owner(f"kept-{number}") == "me"
        for number in range(90):
            known.owner(f"passing-{round_}-{number}")
    assert set(weighed.values()) == {1}
    assert len(known._owners) + len(known._owners_before) <= 1000
