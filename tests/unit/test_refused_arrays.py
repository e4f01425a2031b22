"""What a message costs does not grow with how much of it is bad."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from ingress_with_fakes import MESSAGE, Ingress, Submission
from maniple.amqp.byte_budget import TASK_BYTES
from maniple.codec import decode_submission
from maniple.errors import InvalidMessage
from maniple.identifiers import refusal_id
from maniple.messages import MAX_TASKS
from maniple_dispatcher.ingress.refusal import MOST
from maniple_policies import Ceiling, Resolved
from maniple_runtime.publish.replies import OFFERED_BYTES_OF_PLACE, OFFERS
from maniple_runtime.records import TaskKey
from waiting import wait_until
from work_with_fakes import FakePublisher

PAST = "2020-01-01T00:00:00Z"
MANY: dict[str, list[Any]] = {
    "unknown fields": [{"x": 1}] * MAX_TASKS,
    "numbers": [1] * MAX_TASKS,
    "one id": [{"id": "a"}] * MAX_TASKS,
    "other capabilities": [{"capability": f"other.x{n}"} for n in range(MAX_TASKS)],
    "two ends": [{"deadline": PAST, "ttl": 1}] * MAX_TASKS,
    "reserved fields": [{"not_before": PAST}] * MAX_TASKS,
    "bad ones among good ones": [{}, {"x": 1}] * (MAX_TASKS // 2),
}


@pytest.fixture
def ingress() -> Ingress:
    return Ingress()


@pytest.mark.parametrize("name", MANY)
async def test_an_array_with_many_bad_members_is_refused_as_a_whole(
    ingress: Ingress, name: str
) -> None:
    await ingress.take(MANY[name])
    assert ingress.admitted == []
    (record,), (answer,), (kept,) = ingress.recorded, ingress.answered, ingress.kept
    assert (record.id, answer.id) == (refusal_id(MESSAGE, None), MESSAGE)
    assert (answer.status, answer.error) == ("rejected", record.error)
    assert answer.error is not None
    assert (answer.error.code, answer.capability) == ("invalid_task", "text.stats")
    assert "more than 20 members are bad, so none of the array is taken" in answer.error.message
    told: Any = answer.error.detail
    assert (told["message_id"], len(told["bad"])) == (MESSAGE, MOST)
    assert all(one["message"] and one["code"] for one in told["bad"])
    assert json.loads(kept.body) == MANY[name]


async def test_what_is_refused_as_a_whole_makes_room_for_others() -> None:
    ingress, delivery = Ingress(), Submission(MANY["unknown fields"])
    ingress.submissions.on_submission(delivery)  # type: ignore[arg-type]  # a fake
    await ingress.drain()
    assert delivery.weight == len(delivery.body) + TASK_BYTES


async def test_up_to_twenty_are_refused_one_by_one_and_their_bytes_kept_together(
    ingress: Ingress,
) -> None:
    bad = [{"x": n} for n in range(MOST - 1)]
    await ingress.take([*bad, {}, {"ttl": "soon"}])
    assert len(ingress.admitted) == 1
    positions = [*range(MOST - 1), MOST]
    own = sorted(refusal_id(MESSAGE, position) for position in positions)
    assert sorted(one.id for one in ingress.recorded) == own
    assert len(ingress.answered) == MOST
    alike, alone = sorted(ingress.kept, key=lambda one: -len(one.body))
    assert json.loads(alike.body) == bad
    assert alike.headers is not None
    assert alike.headers["positions"] == ",".join(map(str, range(MOST - 1)))
    assert json.loads(alone.body) == {"ttl": "soon"}


CEILING = Ceiling(60.0, refuses=True, policy="timeout/short", version=1)
NO_SHAPE: dict[str, dict[str, Any]] = {
    "above a ceiling of a timeout": {"timeout": 100},
    "above a ceiling of a ttl": {"ttl": 100},
    "above a ceiling of attempts": {"max_attempts": 100},
    "past deadlines": {"deadline": PAST},
    "deadlines far away": {"deadline": "2200-01-01T00:00:00Z"},
}


def ceilings(ingress: Ingress) -> None:
    """Put ceilings over `text.slow`."""
    low = Resolved(most_timeout=CEILING, most_ttl=CEILING, most_attempts=CEILING)
    policies: Any = SimpleNamespace(resolve=lambda c, *_: low if c == "text.slow" else Resolved())
    ingress.submissions._policies = policies


@pytest.mark.parametrize("name", NO_SHAPE)
async def test_what_a_policy_or_the_time_refuses_costs_no_other_in_its_array(
    ingress: Ingress, name: str
) -> None:
    """The SDK puts tasks into one array that know nothing of each other."""
    ceilings(ingress)
    late = [{"capability": "text.slow", "id": f"late-{n}", **NO_SHAPE[name]} for n in range(100)]
    good = [{"capability": "text.good", "id": f"good-{n}", "ttl": 9} for n in range(100)]
    few = [{"id": f"few-{n}", "x": 1} for n in range(MOST)]
    await ingress.take([*late, *few, *good], routing_key="batch")
    assert ingress.admitted == [one["id"] for one in good]
    assert {one.id for one in ingress.answered} == {one["id"] for one in [*late, *few]}
    assert len(ingress.kept) <= 2 + (name == "past deadlines")


@pytest.mark.parametrize("name", NO_SHAPE)
async def test_of_what_a_policy_or_the_time_refuses_each_is_answered(
    ingress: Ingress, name: str
) -> None:
    """Who sent it waits for that, and could not know."""
    ceilings(ingress)
    ids = [f"late-{n}" for n in range(MAX_TASKS)]
    await ingress.take([{"id": one, **NO_SHAPE[name]} for one in ids], routing_key="text.slow")
    assert [one.id for one in ingress.answered] == ids


@pytest.mark.parametrize("before", [False, True])
async def test_which_id_stands_twice_is_no_matter_of_policies(
    ingress: Ingress, *, before: bool
) -> None:
    ceilings(ingress)
    twice = {"capability": "text.slow", "id": "a", "ttl": 9}
    tasks = [twice | {"timeout": 100}, twice]
    await ingress.take(tasks, routing_key="batch", redelivered=before)
    assert ingress.admitted == (["a"] if before else [])
    assert [one.id for one in ingress.answered if one.id != "a"] == [refusal_id(MESSAGE, 1)]


async def test_refusals_are_recorded_together_whatever_names_they_bear(ingress: Ingress) -> None:
    for number in range(50):
        delivery: Any = Submission({"x": 1}, routing_key=f"invented.x{number}", message_id=None)
        ingress.submissions.on_submission(delivery)
    await ingress.drain()
    assert len(ingress.recorded) == 50
    assert len(ingress.publisher.to("maniple.results")) == 1


AGAIN: dict[str, dict[str, Any]] = {
    "delivered again": {"redelivered": True},
    "said to be repeated": {"headers": {"maniple-repeated": "true"}},
    "both": {"redelivered": True, "headers": {"maniple-repeated": "true"}},
}


@pytest.mark.parametrize("name", AGAIN)
async def test_of_what_may_have_been_taken_before_the_good_ones_go_on(
    ingress: Ingress, name: str
) -> None:
    await ingress.take([{"x": 1}] * 500 + [{"id": "good"}], **AGAIN[name])
    assert ingress.admitted == ["good"]
    (record,) = ingress.recorded
    assert ingress.answered == [record]  # by the message's id it would be taken for the end of all
    assert record.id == refusal_id(MESSAGE, None)
    assert record.error is not None
    assert record.error.message.startswith("500 members are bad, and the others go on")


async def test_of_good_tasks_over_which_a_dispatcher_fails_each_is_answered(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ingress.submissions, "_onward", broken)
    await ingress.take([{"id": f"task-{n}"} for n in range(MAX_TASKS)])
    assert [one.id for one in ingress.answered] == [f"task-{n}" for n in range(MAX_TASKS)]


MIXED = [{"x": 1}] * 500 + [{"id": "good"}, {"id": "late", "deadline": "2200-01-01T00:00:00Z"}]


@pytest.mark.parametrize("name", ["delivered again", "both"])
async def test_an_array_that_was_refused_as_a_whole_stays_refused(
    ingress: Ingress, name: str
) -> None:
    """Whoever refused it may have died before the acknowledgement."""
    await ingress.take(MIXED)
    (record,), (answer,) = ingress.recorded, ingress.answered
    later = Ingress(known=record)
    await later.take(MIXED, **AGAIN[name])
    assert later.records.asked == [TaskKey("default", refusal_id(MESSAGE, None))]
    assert (later.admitted, later.recorded) == ([], [])
    assert [(one.id, one.status, one.error) for one in later.answered] == [
        (MESSAGE, answer.status, answer.error)
    ]
    assert [json.loads(one.body) for one in later.kept] == [MIXED]


async def test_what_else_is_on_record_of_its_message_refuses_no_array(ingress: Ingress) -> None:
    """Its bad members alone, as it came again; or another message under the same id."""
    await ingress.take(MIXED, redelivered=True)
    assert ingress.admitted == ["good"]
    (told,) = [one for one in ingress.recorded if one.id == refusal_id(MESSAGE, None)]
    other = Ingress()
    await other.take([{"y": 1}] * 500)
    for known in (told, *other.recorded):
        later = Ingress(known=known)
        await later.take(MIXED, redelivered=True)
        assert later.admitted == ["good"]


async def test_that_an_array_is_refused_is_on_record_before_its_sender_is_told() -> None:
    publisher = FakePublisher()
    publisher.silent = {"maniple.refused"}
    ingress, delivery = Ingress(publisher), Submission(MIXED)
    ingress.submissions.on_submission(delivery)  # type: ignore[arg-type]  # a fake
    await wait_until(lambda: bool(ingress.kept))
    await asyncio.sleep(0.05)
    assert (ingress.answered, delivery.acked) == ([], 0)
    publisher.freed.set()
    await wait_until(lambda: bool(delivery.acked))
    assert [one.id for one in ingress.answered] == [MESSAGE]


async def test_of_an_array_that_is_another_dispatchers_nothing_is_told() -> None:
    ingress, delivery = Ingress(), Submission(MIXED)
    delivery.alive = False
    ingress.submissions.on_submission(delivery)  # type: ignore[arg-type]  # a fake
    await ingress.drain()
    assert (ingress.recorded, ingress.answered) == ([], [])
    assert (delivery.acked, delivery.rejected) == (0, 0)


def test_no_more_is_decoded_than_is_told() -> None:
    body = json.dumps([{"x": 1}] * MAX_TASKS).encode()
    assert len(decode_submission(body, MOST)) == MOST + 1
    assert all(isinstance(one, InvalidMessage) for one in decode_submission(body))
    mixed = json.dumps([{}, {"x": 1}] * (MAX_TASKS // 2)).encode()
    assert len(decode_submission(mixed, MAX_TASKS)) == MAX_TASKS


async def test_who_floods_and_reads_no_answers_holds_up_nothing_but_a_few() -> None:
    publisher = FakePublisher()
    publisher.silent = {"theirs"}
    ingress = Ingress(publisher)
    sent: list[Any] = [Submission({"x": 1}, message_id=None) for _ in range(2000)]
    for delivery in sent:
        ingress.submissions.on_submission(delivery)
    await wait_until(lambda: sum(one.acked for one in sent) == len(sent) - OFFERS)
    publisher.freed.set()
    await ingress.drain()
    assert sum(one.acked for one in sent) == len(sent)
    most = OFFERED_BYTES_OF_PLACE // 1024 + OFFERS
    assert OFFERS < len(ingress.answered) < most
    assert len(ingress.recorded) == len(sent)
    again: Any = Submission({"x": 1}, message_id="later")
    ingress.submissions.on_submission(again)
    await ingress.drain()
    assert ingress.answered[-1].id == "later"


async def test_a_flooded_address_costs_no_other_its_answers() -> None:
    publisher = FakePublisher()
    publisher.silent = {"theirs"}
    ingress = Ingress(publisher)
    for _ in range(2000):
        flood: Any = Submission({"x": 1}, message_id=None)
        ingress.submissions.on_submission(flood)
    innocent: Any = Submission({"x": 1}, reply_to="another", message_id="mine")
    ingress.submissions.on_submission(innocent)
    await wait_until(lambda: bool(innocent.acked))
    (answer,) = [one for one in publisher.to("") if one.routing_key == "another"]
    assert b'"mine"' in answer.body
    publisher.freed.set()
    await ingress.drain()
