"""What is not admitted ends under an identity of its own, and its sender is told in its words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress_with_fakes import MESSAGE, Ingress
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import is_refusal, member_id, refusal_id
from maniple.messages import Failure, Result, Status
from maniple_dispatcher.ingress.admission import identity
from maniple_dispatcher.ingress.arrival import Arrival
from maniple_dispatcher.ingress.refusal import Refused, refusal_of
from maniple_runtime.records import Entry, FirstWins, Position, TaskKey
from work_with_fakes import NOW

ALIVE = TaskKey("default", "alive")


@pytest.fixture
def ingress() -> Ingress:
    return Ingress()


BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "an unknown field": ({"id": "alive", "colour": "red"}, {}),
    "a wrong type": ({"id": "alive", "ttl": "soon"}, {}),
    "a reserved field": ({"id": "alive", "sealed": 1}, {}),
    "a deadline in the past": ({"id": "alive", "deadline": "2020-01-01T00:00:00Z"}, {}),
    "deadline and ttl": ({"id": "alive", "ttl": 1, "deadline": "2030-01-01T00:00:00Z"}, {}),
    "key and body disagree": ({"id": "alive", "capability": "other.task"}, {}),
    "no capability": ({"id": "alive"}, {"routing_key": "batch"}),
    "a member": ([{"id": "alive", "colour": "red"}], {}),
    "a message's id": (b"garbage", {"message_id": "alive"}),
    "a message's id, and an unknown field": ({"colour": "red"}, {"message_id": "alive"}),
    "too large": (b" " * (1024 * 1024 + 1), {"message_id": "alive"}),
    "a compressed body": ({"id": "alive"}, {"message_id": "alive", "content_encoding": "gzip"}),
    "a forbidden reply_to": (
        {"id": "alive"},
        {"message_id": "alive", "reply_to": "maniple.submit"},
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_under_the_id_of_a_task_that_runs_does_not_end_it(
    ingress: Ingress, name: str
) -> None:
    body, properties = BAD[name]
    await ingress.take(body, **properties)
    (record,) = ingress.recorded
    told: Any = record.error and record.error.detail
    assert (record.status, is_refusal(record.id), told["id"]) == ("rejected", True, "alive")
    answers = [(one.id, one.error) for one in ingress.answered]
    assert answers == ([] if "reply_to" in properties else [("alive", record.error)])


async def test_of_an_id_that_stands_twice_the_first_runs_and_the_second_ends_nothing(
    ingress: Ingress,
) -> None:
    await ingress.take([{"id": "alive"}, {"id": "alive"}, {"id": "other"}])
    assert ingress.admitted == ["alive", "other"]
    (record,) = ingress.recorded
    assert (record.id, record.status) == (refusal_id(MESSAGE, 1), "rejected")
    assert record.error is not None
    assert record.error.detail == {"id": "alive", "message_id": MESSAGE, "position": 1}
    assert ingress.answered == [record]  # by that id it would be taken for the first one's end


async def test_a_bad_member_does_not_take_its_id_from_a_good_one(ingress: Ingress) -> None:
    await ingress.take([{"id": "alive", "sealed": 1}, {"id": "alive", "x": 1}, {"id": "alive"}])
    assert ingress.admitted == ["alive"]
    own = [refusal_id(MESSAGE, 0), refusal_id(MESSAGE, 1)]
    assert sorted(one.id for one in ingress.recorded) == sorted(own)
    assert sorted(one.id for one in ingress.answered) == sorted(own)


async def test_a_reader_who_keeps_the_first_end_keeps_that_of_the_task(ingress: Ingress) -> None:
    for body, properties in BAD.values():
        await ingress.take(body, **properties)
    await ingress.take([{"id": "alive"}, {"id": "alive"}])
    end = Result(id="alive", capability="text.stats", status=Status.SUCCEEDED)
    reader = FirstWins()
    for offset, record in enumerate([*ingress.recorded, end]):
        reader.take(Entry(Position(offset), record))
    fate = reader.get(ALIVE)
    assert fate is not None
    assert [one.ending.status for one in fate.ends] == ["succeeded"]


async def test_what_stands_in_a_refusal_beside_the_id_is_still_there(ingress: Ingress) -> None:
    await ingress.take([{}, {"colour": 1}])
    (record,) = ingress.recorded
    assert record.error is not None
    assert record.error.detail == {
        "field": "colour",
        "id": member_id(MESSAGE, 1),
        "message_id": MESSAGE,
        "position": 1,
    }


async def test_no_task_can_have_the_id_of_a_refusal(ingress: Ingress) -> None:
    theirs = refusal_id(MESSAGE, None)
    await ingress.take({"id": theirs})
    assert not ingress.admitted
    await ingress.take({}, message_id=theirs)
    (made,) = ingress.admitted
    assert not is_refusal(made)


@given(st.text(max_size=255), st.none() | st.integers(0, 999), st.text(max_size=128))
def test_a_refusal_has_its_own_identity_and_the_same_when_made_again(
    message_id: str, position: int | None, claimed: str
) -> None:
    come = Arrival("text.stats", NOW, NOW, message_id=message_id)
    refused = Refused(InvalidMessage(ErrorCode.INVALID_TASK, "no"), claimed, position=position)
    first, again = (refusal_of(refused, come, lambda: "new").record.id for _ in range(2))
    assert first == again
    assert first != identity(None, come, position, lambda: "new")
    assert first != refusal_of(Refused(refused.error, position=1000), come, str).record.id


async def test_a_sender_without_any_id_is_told_by_that_of_the_refusal(ingress: Ingress) -> None:
    await ingress.take({"colour": 1}, message_id=None)
    (record,) = ingress.recorded
    assert ingress.answered == [record]
    failure = record.error
    assert isinstance(failure, Failure)
    assert failure.detail == {"field": "colour"}
