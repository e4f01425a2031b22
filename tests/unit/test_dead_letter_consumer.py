"""What the broker dead-letters ends with a result, whatever it is."""

import json
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from known_records import Known
from maniple.amqp.wire.properties import Properties
from maniple.codec import decode_results, peek_identity
from maniple.identifiers import is_refusal, member_id, refusal_id
from maniple.messages import MAX_TASKS, Envelope, Result, Status, Task, TaskAccepted, TaskAdmitted
from maniple.topology import REFUSED_KEY
from maniple_dispatcher.ingress import dead_letter_consumer, dead_submission
from maniple_dispatcher.ingress.admission import admit
from maniple_dispatcher.ingress.arrival import Arrival, Redelivery
from maniple_dispatcher.ingress.dead_letter_consumer import DeadLetterConsumer
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.redelivered_tasks import RedeliveredTasks
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Ceiling, Resolved
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.records import Record
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from simulated_dispatchers import policy
from work_with_fakes import NOW, FakePublisher

MESSAGE = "0192f0c1-2b3c-7d4e-8f00-112233445566"
SUBMIT = "broker.maniple.submit"
LIMITED = Resolved.from_policies(policy("rate_limit", {"limit": 1}))


class Delivery(SimpleNamespace):
    """A message from `maniple.dead.broker`, and how it was settled."""

    def __init__(self, body: bytes, routing_key: str, reason: str, *, itself: bool) -> None:
        properties = Properties(message_id=MESSAGE, reply_to="theirs")
        death = {"reason": reason, "routing-keys": ["text.stats"]}
        headers = {"x-death": [death | ({"original-expiration": "100"} if itself else {})]}
        super().__init__(body=body, routing_key=routing_key, properties=properties, headers=headers)
        self.acked, self.redelivered, self.weight = 0, False, 0

    def ack(self) -> None:
        self.acked += 1


def admitted(
    decided: Resolved, task: Task, arrival: Arrival, task_id: str
) -> tuple[Envelope, Resolved]:
    """Admit a task as `Submissions` does."""
    envelope = admit(
        task,
        arrival,
        task_id=task_id,
        capability=arrival.routing_key,
        decided=decided,
        traceparent="",
    )
    return envelope, decided


class Gate:
    """Takes what is admitted, and settles its source."""

    def __init__(self) -> None:
        self.admitted: list[tuple[str, Redelivery]] = []

    def admit(
        self, envelope: Envelope, _: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        self.admitted.append((envelope.id, before))
        source.settle()


async def told(  # noqa: PLR0913 - what a test may decide about it
    body: bytes,
    routing_key: str = SUBMIT,
    reason: str = "delivery_limit",
    known: Known | None = None,
    gate: Gate | None = None,
    *,
    itself: bool = True,
    decided: Resolved | None = None,
    publisher: FakePublisher | None = None,
) -> tuple[list[Result], list[Result]]:
    """Return what is recorded of one message, and what its sender is answered."""
    publisher = publisher or FakePublisher()
    delivery = Delivery(body, routing_key, reason, itself=itself)
    metrics = Metrics()
    results = ResultPublisher(publisher, metrics, replier=publisher)
    traces = DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0)
    lets: Any = gate or Gate()
    again = RedeliveredTasks(known, lets, results) if known else None
    taker: Any = DeadLetterConsumer(
        results,
        metrics,
        lambda: NOW,
        traces=traces,
        bulkheads=bulkhead_counts(),
        long=LongMessages(monotonic),
        again=again,
        admitted=partial(admitted, decided or LIMITED),
    )
    taker.on_dead_letter(delivery)
    await results.drain_results()
    assert delivery.acked == 1
    recorded = [r for m in publisher.to("maniple.results") for r in decode_results(m.body)]
    answered = [m for m in publisher.to("") if m.routing_key == "theirs"]
    return recorded, [r for m in answered for r in decode_results(m.body)]


async def ends(body: bytes, routing_key: str = SUBMIT) -> list[Result]:
    """Return what the sender of one message is answered."""
    return (await told(body, routing_key))[1]


@pytest.mark.parametrize("body", [b"\xff", b'{"payload": "\xff"}', b'["\xff"]', b"[", b"[1,]", b""])
async def test_what_cannot_be_read_is_answered_by_the_messages_own_id(body: bytes) -> None:
    (result,) = await ends(body)
    assert (result.id, result.capability, result.status) == (MESSAGE, "text.stats", "rejected")


async def test_members_of_an_array_are_answered_by_ids_of_their_own() -> None:
    results = await ends(json.dumps([{"id": "mine"}, {}, 5]).encode())
    assert [r.id for r in results] == ["mine", member_id(MESSAGE, 1), member_id(MESSAGE, 2)]


@pytest.mark.parametrize("body", [b'{"id":"mine"}', b'[{"id":"mine"},{"id":"b"}]', b'{"x":1}'])
async def test_what_a_dispatcher_may_have_admitted_is_not_ended_under_its_identity(
    body: bytes,
) -> None:
    for reason in ("delivery_limit", "rejected"):
        recorded, _ = await told(body, reason=reason)
        assert [(is_refusal(r.id), r.status) for r in recorded] == [
            (True, "rejected") for _ in recorded
        ]


async def test_a_task_that_the_broker_let_expire_has_ended_and_bad_input_has_not() -> None:
    body = json.dumps([{"id": "mine"}, {"id": "bad", "x": 1}, {"id": "mine"}]).encode()
    recorded, answered = await told(body, reason="expired")
    assert [(r.id, r.status) for r in answered] == [
        ("mine", "expired"),
        ("bad", "expired"),
        (refusal_id(MESSAGE, 2), "expired"),
    ]
    assert {r.id for r in recorded} == {
        "mine",
        refusal_id(MESSAGE, 1),
        refusal_id(MESSAGE, 2),
    }


@pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
async def test_of_any_number_of_good_tasks_each_is_answered(reason: str) -> None:
    body = json.dumps([{"id": f"task-{n}"} for n in range(MAX_TASKS)]).encode()
    recorded, answered = await told(body, reason=reason)
    assert len(recorded) == MAX_TASKS
    assert [one.id for one in answered] == [f"task-{n}" for n in range(MAX_TASKS)]


async def test_how_a_good_task_ends_is_recorded_under_its_capability() -> None:
    publisher = FakePublisher()
    body = b'[{"id":"mine"},{"id":"bad","x":1}]'
    await told(body, reason="expired", publisher=publisher)
    records = publisher.to("maniple.results")
    assert {m.routing_key: [r.id for r in decode_results(m.body)] for m in records} == {
        "text.stats": ["mine"],
        REFUSED_KEY: [refusal_id(MESSAGE, 1)],
    }


@pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
async def test_who_was_late_already_is_answered_however_many_they_are(reason: str) -> None:
    late = [{"id": f"late-{n}", "deadline": "2020-01-01T00:00:00Z"} for n in range(999)]
    body = json.dumps([*late, {"id": "good"}]).encode()
    _, answered = await told(body, reason=reason)
    assert {one.id for one in answered} == {one["id"] for one in late} | {"good"}


MANY: dict[str, list[Any]] = {
    "unknown fields": [{"x": 1}] * 500,
    "numbers": [1] * 500,
    "keys that disagree": [{"capability": "another.name"}] * 500,
}


@pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
@pytest.mark.parametrize("name", MANY)
async def test_many_bad_members_have_one_end_beside_those_of_the_others(
    name: str, reason: str
) -> None:
    body = json.dumps([*MANY[name], {"id": "good"}]).encode()
    recorded, answered = await told(body, reason=reason)
    whole = refusal_id(MESSAGE, None)
    assert {one.id for one in answered} == {"good", whole}
    good = "good" if reason == "expired" else refusal_id(MESSAGE, 500)
    assert {one.id for one in recorded} == {good, whole}
    alone, answers = await told(json.dumps(MANY[name]).encode(), reason=reason)
    assert ([one.id for one in alone], [one.id for one in answers]) == ([whole], [MESSAGE])


@settings(deadline=None)
@given(st.binary(max_size=60) | st.sampled_from([b'{"id":"\\ud800"}', b'{"capability":"\\udfff"}']))
def test_of_any_bytes_an_identity_can_be_asked(body: bytes) -> None:
    assert msgspec.json.encode(peek_identity(body))


@settings(deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b'[{"id":"' + b + b'"}]'))
async def test_any_bytes_end_with_a_result(body: bytes) -> None:
    assert await ends(body)


async def test_whatever_goes_wrong_the_sender_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    for module, name, key in (
        (dead_submission, "decode_submission", SUBMIT),
        (dead_letter_consumer, "decode_members", "broker.maniple.retry"),
    ):
        monkeypatch.setattr(module, name, broken)
        (result,) = await ends(b"{}", key)
        assert (result.id, result.status) == (MESSAGE, "rejected")


GOOD, BAD = b'{"id":"mine"}', b'{"id":"mine","x":1}'
ENDED = Result(id="mine", capability="text.stats", status=Status.SUCCEEDED)
ACCEPTED = TaskAccepted(
    id="mine",
    capability="text.stats",
    lane="text.stats",
    submitted_at=NOW,
    dispatched_at=NOW,
    deadline=NOW,
)


@pytest.mark.parametrize("record", [ENDED, ACCEPTED], ids=["ended", "accepted"])
async def test_what_expired_and_is_known_to_be_elsewhere_is_told_of_if_it_ended(
    record: Record,
) -> None:
    """Whoever recorded its end may have died before it answered."""
    recorded, answered = await told(GOOD, reason="expired", known=Known(record))
    assert (recorded, answered) == ([], [record] if record is ENDED else [])


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("decided", [LIMITED, Resolved()], ids=["limited", "free"])
async def test_what_expired_and_never_left_a_dispatcher_ends_under_its_id(
    decided: Resolved, *, itself: bool
) -> None:
    """What its queue has expired, under no limit, may have left without a record: it goes on."""
    gate, known = Gate(), Known(None)
    recorded, answered = await told(
        GOOD, reason="expired", known=known, gate=gate, itself=itself, decided=decided
    )
    assert recorded == answered
    ends = itself or decided is LIMITED
    assert [(one.id, one.status) for one in answered] == ([("mine", "expired")] if ends else [])
    assert gate.admitted == ([] if ends else [("mine", Redelivery.DELIVERED)])


@pytest.mark.parametrize(
    ("owing", "before"), [(False, Redelivery.DELIVERED), (True, Redelivery.BOTH)]
)
async def test_what_expired_and_may_have_left_a_dispatcher_goes_on(
    *, owing: bool, before: Redelivery
) -> None:
    """It was taken in time, and may be running."""
    record, gate = TaskAdmitted(id="mine", capability="text.stats", owing=owing), Gate()
    body = b'[{"id":"mine"},{"id":"other"}]'
    recorded, answered = await told(body, reason="expired", known=Known(record), gate=gate)
    assert (recorded, answered) == ([], [])
    assert gate.admitted == [("mine", before), ("other", before)]


@pytest.mark.parametrize("record", [None, TaskAdmitted(id="mine", capability="text.stats")])
@pytest.mark.parametrize("itself", [True, False])
async def test_what_expired_above_a_ceiling_ends_or_goes_on_as_all_else(
    record: Record | None, *, itself: bool
) -> None:
    """It may have been admitted before there was one; that it is refused now would tell nobody."""
    ceiling = Resolved(most_timeout=Ceiling(1.0, refuses=True, policy="timeout/it", version=1))
    gate, known = Gate(), Known(record)
    body = b'{"id":"mine","timeout":5}'
    recorded, answered = await told(
        body, reason="expired", known=known, gate=gate, itself=itself, decided=ceiling
    )
    ends = itself and record is None
    assert recorded == answered
    assert [(one.id, one.status) for one in answered] == ([("mine", "expired")] if ends else [])
    assert [name for name, _ in gate.admitted] == ([] if ends else ["mine"])


async def test_what_expired_is_not_told_another_capabilitys_end() -> None:
    """Somebody has used its id: that says nothing of it, and it goes on."""
    theirs, gate = replace(ENDED, capability="other.thing"), Gate()
    recorded, answered = await told(GOOD, reason="expired", known=Known(theirs), gate=gate)
    assert (recorded, answered) == ([], [])
    assert gate.admitted == [("mine", Redelivery.DELIVERED)]


async def test_bad_input_has_nobody_looked_up() -> None:
    known = Known(ENDED)
    recorded, _ = await told(BAD, reason="expired", known=known)
    assert (known.asked, [is_refusal(one.id) for one in recorded]) == ([], [True])
