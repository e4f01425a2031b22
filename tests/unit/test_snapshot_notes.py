"""`limits.snapshot_notes`: what is written down is merged, bounded, and not trusted."""

import json
from typing import Any

import pytest

from maniple_dispatcher.limits.snapshot_notes import (
    IN_USE,
    OLD,
    SnapshotNotes,
    latest,
    read,
    with_ours,
)
from maniple_dispatcher.limits.snapshot_pages import BYTES, write

NOW = 1_800_000_000.0
CONSUL_TAKES = 512 * 1024
EMPTY = (0.0, 1 / 3600, 5.0, NOW)


def written(**said: Any) -> bytes:
    return json.dumps({"at": NOW, **said}).encode()


def test_of_two_statements_the_later_one_counts_whoever_wrote_it_first() -> None:
    early = SnapshotNotes({"k": (4.0, 1.0, 5.0, NOW - 9)}, {"lane": ("open", 3, NOW)})
    late = SnapshotNotes({"k": (1.0, 1.0, 5.0, NOW)}, {"lane": ("closed", 4, NOW)})
    both = SnapshotNotes({"k": (1.0, 1.0, 5.0, NOW)}, {"lane": ("closed", 4, NOW)})
    assert latest([early, late]) == latest([late, early]) == both


def test_what_somebody_else_owns_now_stays_as_it_was_written() -> None:
    before = SnapshotNotes({"others": EMPTY, "ours": EMPTY}, {"lane": ("open", 1, NOW)})
    ours = SnapshotNotes({"ours": (2.0, 1.0, 5.0, NOW)})
    merged = with_ours(before, ours)
    assert merged.levels == {"others": EMPTY, "ours": (2.0, 1.0, 5.0, NOW)}
    assert merged.breakers == before.breakers


def test_what_is_full_again_or_long_past_is_left_out() -> None:
    notes = SnapshotNotes(
        {"full": (0.0, 1.0, 5.0, NOW - 5), "slow": (0.0, 1 / 86_400, 5.0, NOW - 2 * OLD)},
        {"old": ("open", 1, NOW - OLD - 1), "new": ("open", 1, NOW)},
    )
    lasting = notes.lasting(NOW)
    assert (set(lasting.levels), set(lasting.breakers)) == ({"slow"}, {"new"})


def test_what_is_written_has_room_in_consul_and_keeps_what_matters_most() -> None:
    levels = {f"{n:04}" + "k" * 1000: (float(n), 1.0, 1000.0, NOW) for n in range(1000)}
    lanes = {
        f"{n:05}" + "l" * 200: ("open" if n < 100 else "closed", n + 1, NOW) for n in range(9_000)
    }
    value = write(SnapshotNotes(levels, lanes), NOW).value
    assert len(value) <= CONSUL_TAKES
    kept = read(value, NOW)
    assert sum(state == "open" for state, _, _ in kept.breakers.values()) == 100
    assert sorted(kept.levels) == sorted(levels)[: len(kept.levels)]
    assert len(kept.levels) > 100


def test_what_was_written_is_read_as_it_was_and_by_older_dispatchers_too() -> None:
    notes = SnapshotNotes({"k": EMPTY}, {"lane": ("half_open", 7, NOW)}, NOW)
    value = write(notes, NOW).value
    assert read(value, NOW) == notes
    assert json.loads(value) == {
        "at": NOW,
        "levels": {"k": list(EMPTY)},
        "breakers": {"lane": ["half_open", 7, NOW]},
    }


@pytest.mark.parametrize(
    "level",
    [None, [], [1.0], "1234", {}, [1, 0, 5, NOW], [1, 1, -5, NOW], [True, 1, 5, NOW],
     [1, 1, 5, None], [float("nan"), 1, 5, NOW], [1, float("inf"), 5, NOW], [1, 10**400, 5, NOW]],
)  # fmt: skip
def test_an_entry_that_cannot_be_used_costs_no_other(level: Any) -> None:
    lanes = {"good": ["open", 1, NOW, "newer"], "odd": ["ajar", 1, NOW], "bad": level}
    lanes["huge"] = ["open", 2**64, NOW]
    kept = read(written(levels={"bad": level, "good": [*EMPTY, "newer"]}, breakers=lanes), NOW)
    assert kept == SnapshotNotes({"good": EMPTY}, {"good": ("open", 1, NOW)}, NOW)


def test_a_clock_that_is_ahead_does_not_make_a_statement_later_than_now() -> None:
    kept = read(written(at=NOW + 99, levels={"k": [1, 1, 5, NOW + 99]}), NOW)
    assert (kept.levels["k"][3], kept.at) == (NOW, NOW)


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"7", b"\xff", b'{"at":'])
def test_what_is_no_object_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|decode"):
        read(value, NOW)


@pytest.mark.parametrize("value", [b"{}", b'{"levels": [], "breakers": 3, "at": "x"}'])
def test_an_object_that_says_nothing_is_nothing(value: bytes) -> None:
    assert not read(value, NOW)


def test_what_bulkheads_had_is_read_as_it_was_written_and_the_later_statement_counts() -> None:
    early = SnapshotNotes(rooms={"b": (9, ("x",), NOW - 60)})
    late = SnapshotNotes(rooms={"b": (3, ("x", "y"), NOW)})
    assert read(write(late, NOW).value, NOW).rooms == late.rooms
    assert latest([early, late]).rooms == latest([late, early]).rooms == late.rooms
    assert with_ours(early, SnapshotNotes()).rooms == {}
    assert SnapshotNotes(rooms={"b": (9, (), NOW - IN_USE - 1)}).lasting(NOW).rooms == {}


@pytest.mark.parametrize(
    "room", [None, [], [0, [], 1], [True, [], 1], [3, "x", 1], [3, [1], 1], [3, []]]
)
def test_a_bulkhead_that_cannot_be_used_costs_no_other(room: Any) -> None:
    good = [2, ["x"], NOW]
    assert read(written(rooms={"bad": room, "good": good}), NOW).rooms == {"good": (2, ("x",), NOW)}


MANY = tuple(f"x{n}-".ljust(128, "y") for n in range(3000))
BREAKER = ("open", 1, NOW)


def kept(notes: SnapshotNotes) -> SnapshotNotes:
    return read(write(notes, NOW).value, NOW)


def test_a_bulkhead_of_too_many_lanes_goes_without_them_and_costs_nothing_else() -> None:
    rooms = {"huge": (9000, MANY, NOW), "b": (3, ("x",), NOW)}
    written = write(SnapshotNotes({"k": EMPTY}, {"lane": BREAKER}, rooms=rooms), NOW)
    assert written.bare == 1
    assert written.left == {}
    assert kept(written.notes).says_as(written.notes)
    assert written.notes.rooms == {"huge": (9000, (), NOW), "b": (3, ("x",), NOW)}
    assert (written.notes.levels, written.notes.breakers) == ({"k": EMPTY}, {"lane": BREAKER})


@pytest.mark.parametrize("kind", ["levels", "breakers", "rooms"])
def test_many_of_one_kind_cost_no_other_and_are_counted(kind: str) -> None:
    few: dict[str, Any] = {"levels": EMPTY, "breakers": BREAKER, "rooms": (3, ("x",), NOW)}
    said: dict[str, Any] = {one: {"k": value} for one, value in few.items()}
    said[kind] = dict.fromkeys(("k", *MANY), few[kind])
    written = write(SnapshotNotes(**said), NOW)
    assert len(written.value) <= CONSUL_TAKES
    for one in few:
        there = getattr(kept(written.notes), one)
        assert len(there) + written.left.get(one, 0) == len(said[one])
        assert (len(there) < len(said[one])) == (one == kind)


def test_one_that_is_too_large_costs_no_other_of_its_kind() -> None:
    huge = "k" * (BYTES["levels"] + 1)
    written = write(SnapshotNotes({huge: EMPTY, "k": (1.0, *EMPTY[1:])}), NOW)
    assert (set(written.notes.levels), written.left) == ({"k"}, {"levels": 1})


def test_the_emptiest_are_those_that_are_so_now() -> None:
    filling = {f"{n}" + "k" * 1000: (0.0, 0.009, 1.0, NOW - 100) for n in range(500)}
    written = write(SnapshotNotes({**filling, "k": (3.0, 1 / 3600, 5.0, NOW)}), NOW)
    assert "k" in written.notes.levels
    assert written.left["levels"] > 0


def test_what_is_written_in_other_letters_has_as_much_room() -> None:
    tenants = {f"{n}" + "\U0001f600" * 124: EMPTY for n in range(400)}
    assert len(kept(SnapshotNotes(tenants)).levels) == 400
    assert write(SnapshotNotes({"\ud800": EMPTY, "k": EMPTY}), NOW).notes.levels == {"k": EMPTY}


@pytest.mark.parametrize(
    ("later", "same"),
    [((1.0, 0.01, 5.0, NOW + 100), True), ((1.01, 0.01, 5.0, NOW + 100), True),
     ((0.0, 0.01, 5.0, NOW + 100), False), ((1.0, 0.01, 6.0, NOW + 100), False),
     ((1.0, 0.02, 5.0, NOW + 100), False)],
)  # fmt: skip
def test_what_says_the_same_as_before_is_no_news(later: Any, *, same: bool) -> None:
    before = SnapshotNotes({"k": (0.0, 0.01, 5.0, NOW)})
    assert with_ours(before, SnapshotNotes({"k": later})).says_as(before) == same
    again = SnapshotNotes(breakers={"lane": ("open", 7, NOW + 1)})
    assert (
        with_ours(SnapshotNotes(breakers={"lane": ("open", 7, NOW)}), again).breakers["lane"][2]
        == NOW
    )
