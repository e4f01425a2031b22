"""What is delivered again is brought onward only if nothing of it is in the records."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from known_records import Known
from maniple.codec import decode_results, encode
from maniple.errors import ErrorCode
from maniple.messages import (
    ACCEPTED_TYPE,
    ADMITTED_TYPE,
    MARK_TYPE,
    RESULTS_TYPE,
    Envelope,
    Failure,
    Result,
    Status,
    TaskAccepted,
    TaskAdmitted,
    TaskRunning,
    Waiting,
)
from maniple.topology import DELAY, LANES, RESULTS
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.ingress.record_lookup import MOST_ENDS, RecordSearch
from maniple_dispatcher.ingress.redelivered_tasks import RedeliveredTasks
from maniple_policies import Resolved
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.records import Batch, Entry, Record, TaskKey
from maniple_runtime.telemetry import Metrics
from pipeline_with_fakes import PipelineWithFakes
from simulated_dispatchers import policy
from work_with_fakes import NOW, Delivery, FakePublisher, envelope

KEY = TaskKey("default", "1")
HOUR = timedelta(hours=1)
NONE: Mapping[str, int] = {}


def ended(name: str, status: Status = Status.SUCCEEDED, tenant: str = "default") -> Result:
    return Result(id=name, capability="a.task", status=status, finished_at=NOW, tenant=tenant)


def accepted(name: str) -> TaskAccepted:
    return TaskAccepted(
        id=name,
        capability="a.task",
        lane="a.task",
        submitted_at=NOW,
        dispatched_at=NOW,
        deadline=NOW + HOUR,
    )


ADMITTED = TaskAdmitted(id="1", capability="a.task")
RUNNING = TaskRunning(id="1", capability="a.task", attempt=1, agent="a", started_at=NOW)


class DispatcherWithRecord:
    """A task that is delivered again."""

    def __init__(self, record: Record | None) -> None:
        self.publisher, self.delivery = FakePublisher(), Delivery()
        self.results = ResultPublisher(self.publisher, Metrics(), replier=self.publisher)
        gate: Any = self
        self.known = Known(record)
        self.again = RedeliveredTasks(self.known, gate, self.results)
        self.onward: list[str] = []
        self.before: Redelivery | None = None

    def admit(
        self, _envelope: Envelope, _resolved: Resolved, _source: Settlement, before: Redelivery
    ) -> None:
        self.before = before

    def submitted(self, before: Redelivery, resolved: Resolved) -> Redelivery | None:
        """Return what it goes to the pipeline as, if it does."""
        source = Settlement(self.delivery, 1)  # type: ignore[arg-type]  # a fake
        self.again.admit(envelope("1"), resolved, source, before)
        return self.before

    async def comes(
        self,
        *,
        accepted: bool = False,
        reply_to: str | None = "theirs",
        policies: Mapping[str, int] = NONE,
    ) -> None:
        source = Settlement(self.delivery, 1)  # type: ignore[arg-type]  # a fake
        task = envelope("1", accepted=accepted, reply_to=reply_to, policies=dict(policies))
        self.again.on_returned_task(task, source, lambda one, _: self.onward.append(one.id))
        await self.results.drain_results()

    @property
    def answers(self) -> list[Result]:
        assert not self.publisher.to("maniple.results")  # it is recorded already
        return [one for m in self.publisher.to("") for one in decode_results(m.body)]


LIMITED = Resolved.from_policies(policy("rate_limit", {"limit": 1, "period": 60}))


@pytest.mark.parametrize(
    ("before", "resolved", "becomes"),
    [
        (Redelivery.DELIVERED, Resolved(), Redelivery.DELIVERED),
        (Redelivery.BOTH, Resolved(), Redelivery.BOTH),
        (Redelivery.DELIVERED, LIMITED, Redelivery.UNKNOWN),
        (Redelivery.BOTH, LIMITED, Redelivery.SAID),
    ],
)
def test_what_has_no_record_is_as_new_where_one_is_written_before_it_leaves(
    before: Redelivery, resolved: Resolved, becomes: Redelivery
) -> None:
    assert DispatcherWithRecord(None).submitted(before, resolved) is becomes


@pytest.mark.parametrize("before", [Redelivery.DELIVERED, Redelivery.BOTH])
def test_what_was_charged_is_not_charged_again(before: Redelivery) -> None:
    assert DispatcherWithRecord(ADMITTED).submitted(before, LIMITED) is Redelivery.DELIVERED


@pytest.mark.parametrize("before", [Redelivery.DELIVERED, Redelivery.BOTH])
def test_what_waited_and_had_yet_to_pay_has_to_pay(before: Redelivery) -> None:
    owing = TaskAdmitted(id="1", capability="a.task", owing=True)
    assert DispatcherWithRecord(owing).submitted(before, LIMITED) is Redelivery.BOTH


def test_what_has_ended_is_not_admitted() -> None:
    assert DispatcherWithRecord(ended("1")).submitted(Redelivery.DELIVERED, LIMITED) is None


@pytest.mark.parametrize("found", [None, ADMITTED], ids=["nothing", "admitted"])
async def test_what_has_no_end_goes_onward(found: Record | None) -> None:
    dispatcher = DispatcherWithRecord(found)
    await dispatcher.comes()
    assert (dispatcher.known.asked, dispatcher.onward) == ([KEY], ["1"])
    assert (dispatcher.delivery.acked, dispatcher.answers) == (0, [])


@pytest.mark.parametrize("reply_to", ["theirs", None])
@pytest.mark.parametrize("status", [Status.REJECTED, Status.SUCCEEDED], ids=str)
async def test_what_has_ended_is_answered_once_more_and_settled(
    status: Status, reply_to: str | None
) -> None:
    end = ended("1", status)
    dispatcher = DispatcherWithRecord(end)
    await dispatcher.comes(reply_to=reply_to)
    assert (dispatcher.onward, dispatcher.delivery.acked) == ([], 1)
    assert dispatcher.answers == ([end] if reply_to else [])


OTHERS = replace(ended("1"), capability="another.task")
BAD = Failure(code=ErrorCode.UNKNOWN_FIELD, message="no such field")


async def test_the_end_of_another_capability_under_the_same_id_is_not_its_end() -> None:
    dispatcher = DispatcherWithRecord(OTHERS)
    await dispatcher.comes()
    assert (dispatcher.onward, dispatcher.delivery.acked, dispatcher.answers) == (["1"], 0, [])


@pytest.mark.parametrize("before", [Redelivery.DELIVERED, Redelivery.BOTH])
def test_beside_the_end_of_another_capability_it_is_not_known_to_be_new(before: Redelivery) -> None:
    assert DispatcherWithRecord(OTHERS).submitted(before, LIMITED) is Redelivery.DELIVERED


@pytest.mark.parametrize(
    "end",
    [
        replace(OTHERS, policies={"fallback/it": 1}),
        replace(OTHERS, status=Status.REJECTED, error=BAD),
    ],
    ids=["of its fallback", "of bad input"],
)
async def test_an_end_that_may_name_another_capability_is_its_own(end: Result) -> None:
    dispatcher = DispatcherWithRecord(end)
    await dispatcher.comes()
    assert (dispatcher.onward, dispatcher.delivery.acked, dispatcher.answers) == ([], 1, [end])


async def test_a_fallback_may_have_ended_as_what_it_is_instead_of() -> None:
    dispatcher = DispatcherWithRecord(OTHERS)
    await dispatcher.comes(policies={"fallback/it": 1})
    assert (dispatcher.onward, dispatcher.delivery.acked, dispatcher.answers) == ([], 1, [OTHERS])


@pytest.mark.parametrize("record", [accepted("1"), RUNNING], ids=["accepted", "running"])
async def test_what_is_in_its_lane_is_settled_unless_it_came_back_from_there(
    record: Record,
) -> None:
    dispatcher = DispatcherWithRecord(record)
    await dispatcher.comes()
    assert (dispatcher.onward, dispatcher.delivery.acked, dispatcher.answers) == ([], 1, [])
    back = DispatcherWithRecord(record)
    await back.comes(accepted=True)
    assert (back.onward, back.delivery.acked) == (["1"], 0)


async def test_what_cannot_be_brought_onward_is_refused_to_the_broker() -> None:
    dispatcher = DispatcherWithRecord(None)
    source = Settlement(dispatcher.delivery, 1)  # type: ignore[arg-type]  # a fake

    def fails(*_: object) -> None:
        raise RuntimeError

    dispatcher.again.on_returned_task(envelope("1"), source, fails)
    assert (dispatcher.delivery.acked, dispatcher.delivery.rejected) == (0, 1)


@pytest.mark.parametrize(
    "found",
    [ended("1"), accepted("1"), None],
    ids=["ended", "accepted", "unrecorded"],
)
async def test_one_of_two_expires_only_if_the_other_has_not_ended_nor_come_to_its_lane(
    found: Record | None,
) -> None:
    known = Known(found)
    dispatcher = PipelineWithFakes([], None, lookups=known)
    task = envelope("1", again=True, waits=1, reply_to="theirs", deadline=NOW)
    await dispatcher.bring_back(replace(task, submitted_at=NOW - HOUR))
    results = [
        one for m in dispatcher.publisher.to("maniple.results") for one in decode_results(m.body)
    ]
    expires = found is None
    assert [one.status for one in results] == [Status.EXPIRED] * expires
    assert known.since == HOUR.total_seconds()


async def test_what_waited_alone_expires_without_being_looked_up() -> None:
    known = Known(ended("1"))
    dispatcher = PipelineWithFakes([], None, lookups=known)
    await dispatcher.bring_back(envelope("1", waits=1, deadline=NOW))
    assert (known.asked, len(dispatcher.publisher.to("maniple.results"))) == ([], 1)


async def found(
    search: RecordSearch, *messages: tuple[str, list[Record]], offset: int = 0
) -> dict[TaskKey, Record]:
    """Have a search read messages; return what it has found."""
    for number, (kind, records) in enumerate(messages, offset):
        decoded = search.decode(kind, encode(records), number)
        entries = tuple(one for one in decoded if isinstance(one, Entry))
        await search.add_batch(Batch(entries, number + 1))
    return {key: record for key, one in search.found.items() if (record := one.choose_record(None))}


@pytest.mark.parametrize("capability", ["a.task", "other.thing"])
async def test_the_end_of_another_capability_hides_no_end_of_ours(capability: str) -> None:
    search = RecordSearch([KEY])
    theirs = replace(ended("1"), capability="other.thing")
    await found(search, (RESULTS_TYPE, [theirs]), (RESULTS_TYPE, [ended("1")]))
    seen = search.found[KEY].choose_record(capability)
    assert isinstance(seen, Result)
    assert seen.capability == capability
    assert search.found[KEY].choose_record("third.thing") == theirs  # so it is not taken for new


async def test_however_many_capabilities_end_under_one_id_few_are_kept() -> None:
    search = RecordSearch([KEY])
    ends: list[Record] = [replace(ended("1"), capability=f"c.x{n}") for n in range(100)]
    await found(search, (RESULTS_TYPE, ends))
    assert len(search.found[KEY].ends) == MOST_ENDS


async def test_the_first_end_of_a_task_is_found_among_others() -> None:
    names = ["1", 'quo"te', "ümlaut", "sl\\ash"]
    search = RecordSearch([TaskKey("default", name) for name in names])
    refusal = ended("1", Status.REJECTED)
    got = await found(
        search,
        (ADMITTED_TYPE, [ADMITTED]),
        (ACCEPTED_TYPE, [accepted("x"), accepted("1")]),
        (RESULTS_TYPE, [ended("y"), ended("1", tenant="other"), refusal]),
        (RESULTS_TYPE, [ended("1")]),
        (ACCEPTED_TYPE, [accepted("1")]),
        (RESULTS_TYPE, [ended(name) for name in names[1:]]),
    )
    assert got == {
        TaskKey("default", name): refusal if name == "1" else ended(name) for name in names
    }


async def test_what_nobody_asks_for_is_not_decoded() -> None:
    search = RecordSearch([KEY])
    assert not search.decode(RESULTS_TYPE, b'[{"id":"2", and so on', 0)
    assert not search.decode("newer", encode([ended("1")]), 0)


async def test_it_ends_at_its_own_mark_and_no_other() -> None:
    search, other = RecordSearch([KEY]), RecordSearch([KEY])
    for mark, over in ((other.mark, False), (search.mark, True)):
        assert mark.type == MARK_TYPE
        search.decode(mark.type, mark.body, 0)
        await search.add_batch(Batch((), 1))
        assert search.ended.is_set() == over


async def test_ids_of_all_lengths_are_found_and_what_is_longer_costs_nothing() -> None:
    longest = "\u0001" * 128  # six bytes each, as it is written
    search = RecordSearch([TaskKey("default", longest)])
    payload = b'{"id":"' + b"a" * 1_000_000 + b'"}'
    body = b'[{"id":"x","capability":"c","status":"succeeded","output":%b}]' % payload
    assert not search.decode(RESULTS_TYPE, body, 0)
    assert await found(search, (RESULTS_TYPE, [ended(longest)]))


@pytest.mark.parametrize("again", [True, False])
async def test_what_came_again_and_is_over_before_it_can_wait_is_looked_up_when_it_comes_back(
    *, again: bool
) -> None:
    dispatcher = PipelineWithFakes((), None, lookups=Known(ended("1")))
    task = replace(envelope("1"), again=again, deadline=NOW - HOUR)
    source = Settlement(Delivery(), 1)  # type: ignore[arg-type]  # a fake
    dispatcher.lanes.hold(task, source, Waiting.NO_AGENT)
    await dispatcher.drain()
    waits = dispatcher.tasks(DELAY.name)
    assert [one.id for one in waits] == (["1"] if again else [])
    for one in waits:
        await dispatcher.bring_back(one)
    expired = [
        r.status for m in dispatcher.publisher.to(RESULTS.name) for r in decode_results(m.body)
    ]
    assert expired == ([] if again else [Status.EXPIRED])


@pytest.mark.parametrize("before", [Redelivery.UNKNOWN, Redelivery.DELIVERED])
@pytest.mark.parametrize("expires", [True, False])
async def test_what_would_expire_in_its_queue_is_on_record_before_it_leaves(
    before: Redelivery, *, expires: bool
) -> None:
    """Or what expires there, and has no record, might be running."""
    dispatcher = PipelineWithFakes((), None)
    brought = dispatcher.bring(envelope("1"), before, expires=expires)
    recorded = [message.type for message in dispatcher.publisher.to(RESULTS.name)]
    assert (recorded, dispatcher.tasks(LANES.name)) == ([], [])
    await dispatcher.drain()
    recorded = [message.type for message in dispatcher.publisher.to(RESULTS.name)]
    assert recorded == ([ADMITTED_TYPE] if expires else [])
    assert [one.id for one in dispatcher.tasks(LANES.name)] == ["1"]
    assert brought.acked == 1
    gone = dispatcher.bring(envelope("2"), before, expires=expires)
    gone.alive = False  # its queue has it again, and it may have expired by now
    await dispatcher.drain()
    assert ("2" in [one.id for one in dispatcher.tasks(LANES.name)]) is not expires
