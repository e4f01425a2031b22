"""`maniple_runtime.control.incarnations`: which life is the later one, whatever clocks say."""

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from maniple.identifiers import new_id
from maniple_runtime.control.incarnations import FAR, began, is_of_the_future, later_life

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
MILLISECONDS = st.integers(0, 2**48 - 2)


def uuid7(milliseconds: int) -> str:
    return str(UUID(int=milliseconds << 80 | UUID(new_id()).int & (1 << 80) - 1))


@given(fresh=MILLISECONDS, ended=st.lists(MILLISECONDS, min_size=1))
def test_a_life_sorts_after_those_that_have_ended_whatever_the_clock_says(
    fresh: int, ended: list[int]
) -> None:
    lives = [uuid7(one) for one in ended]
    made = later_life(uuid7(fresh), *lives, "")
    assert made > max(lives)
    assert UUID(made).version == 7
    assert later_life(made, *lives) == made


def test_a_life_is_not_sorted_after_what_is_no_uuid() -> None:
    fresh = new_id()
    assert later_life(fresh, "zero", "") == fresh


@given(st.text(max_size=64))
def test_of_any_text_it_can_be_told_whether_it_is_a_life(text: str) -> None:
    assert is_of_the_future(text, NOW.timestamp()) in {True, False}
    assert began(text) is None or str(UUID(text)) == text


MOMENTS = st.integers(0, int(datetime(9999, 1, 1, tzinfo=UTC).timestamp() * 1000))


@given(MOMENTS, MOMENTS)
def test_after_every_life_that_a_clock_can_tell_there_is_a_later_one(one: int, two: int) -> None:
    lives = [str(UUID(int=milliseconds << 80)) for milliseconds in (one, two)]
    after = later_life(*lives)
    assert after == lives[0] > lives[1] or after > lives[1]
    assert not is_of_the_future(after)
    assert not is_of_the_future(uuid7(round((NOW.timestamp() + FAR - 1) * 1000)), NOW.timestamp())
