from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from maniple.identifiers import member_id, new_id


def test_new_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert ids == sorted(ids)
    assert UUID(ids[0]).version == 7


def test_a_member_of_an_array_has_the_id_that_the_contract_promises() -> None:
    message = "0191d3a0-0000-7000-8000-000000000000"
    assert member_id(message, 3) == str(uuid5(UUID(message), "3"))
    assert member_id("job", 0) == "7c16f52f-7e2d-594e-bb36-45ac80e1b88b"


@given(st.text(), st.integers(0, 1000), st.integers(0, 1000))
def test_the_same_member_of_the_same_message_keeps_its_id(
    message: str, one: int, other: int
) -> None:
    assert member_id(message, one) == member_id(message, one)
    assert (member_id(message, one) == member_id(message, other)) == (one == other)
