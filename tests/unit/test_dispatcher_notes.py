"""`maniple_dispatcher.domain.notes`: what is written down is merged, bounded, and not trusted."""

import json
from typing import Any

import pytest

from maniple_dispatcher.domain.notes import BYTES, IN_USE, OLD, Notes, latest, read, with_ours

NOW = 1_800_000_000.0
EMPTY = (0.0, 1 / 3600, 5.0, NOW)


def written(**said: Any) -> bytes:
    return json.dumps({"at": NOW, **said}).encode()


def test_of_two_statements_the_later_one_counts_whoever_wrote_it_first() -> None:
    early = Notes({"k": (4.0, 1.0, 5.0, NOW - 9)}, {"lane": ("open", 3, NOW)})
    late = Notes({"k": (1.0, 1.0, 5.0, NOW)}, {"lane": ("closed", 4, NOW)})
    both = Notes({"k": (1.0, 1.0, 5.0, NOW)}, {"lane": ("closed", 4, NOW)})
    assert latest([early, late]) == latest([late, early]) == both


def test_what_somebody_else_owns_now_stays_as_it_was_written() -> None:
    before = Notes({"others": EMPTY, "ours": EMPTY}, {"lane": ("open", 1, NOW)})
    ours = Notes({"ours": (2.0, 1.0, 5.0, NOW)})
    merged = with_ours(before, ours)
    assert merged.levels == {"others": EMPTY, "ours": (2.0, 1.0, 5.0, NOW)}
    assert merged.breakers == before.breakers


def test_what_is_full_again_or_long_past_is_left_out() -> None:
    notes = Notes(
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
    value = Notes(levels, lanes).to_json(NOW)
    assert len(value) <= BYTES + 100
    kept = read(value, NOW)
    assert sum(state == "open" for state, _, _ in kept.breakers.values()) == 100
    assert sorted(kept.levels) == sorted(levels)[: len(kept.levels)]
    assert len(kept.levels) > 100


def test_what_was_written_is_read_as_it_was_and_by_older_dispatchers_too() -> None:
    notes = Notes({"k": EMPTY}, {"lane": ("half_open", 7, NOW)}, NOW)
    value = notes.to_json(NOW)
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
    assert kept == Notes({"good": EMPTY}, {"good": ("open", 1, NOW)}, NOW)


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
    early = Notes(rooms={"b": (9, ("x",), NOW - 60)})
    late = Notes(rooms={"b": (3, ("x", "y"), NOW)})
    assert read(late.to_json(NOW), NOW).rooms == late.rooms
    assert latest([early, late]).rooms == latest([late, early]).rooms == late.rooms
    assert with_ours(early, Notes()).rooms == {}
    assert Notes(rooms={"b": (9, (), NOW - IN_USE - 1)}).lasting(NOW).rooms == {}


@pytest.mark.parametrize(
    "room", [None, [], [0, [], 1], [True, [], 1], [3, "x", 1], [3, [1], 1], [3, []]]
)
def test_a_bulkhead_that_cannot_be_used_costs_no_other(room: Any) -> None:
    good = [2, ["x"], NOW]
    assert read(written(rooms={"bad": room, "good": good}), NOW).rooms == {"good": (2, ("x",), NOW)}
