"""What is wrong with one member of a message costs no other, in every process that reads it."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ingress_with_fakes import Ingress, Submission
from maniple.client.carrier import AmqpCarrier
from maniple.client.handle import OutstandingHandles, TaskHandle, error_of
from maniple.clock import Clock
from maniple.codec import decode_members, decode_results, encode, join
from maniple.errors import ErrorCode, InvalidMessage, ManipleError, TaskError
from maniple.messages import PROGRESS_TYPE, RESULTS_TYPE, Envelope, Progress, Result, Status
from maniple.topology import REPLY_PREFIX
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.dead_letter_consumer import DeadLetterConsumer
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.retry_consumer import RetryConsumer
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import PolicySet, parse_policy
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.records import Entry, FirstWins, Position, TaskKey
from maniple_runtime.remnants import remnant_of
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from permits import bulkhead_counts
from work_with_fakes import NOW, Agent, Delivery, FakePublisher, envelope

FAR = NOW + timedelta(hours=1)


def newer(task: Envelope) -> bytes:
    """Return a task as a later release might write it: with a field of another kind."""
    return encode(msgspec.to_builtins(task, builtin_types=(msgspec.Raw,)) | {"lost": "often"})


def bundle(*members: Envelope | bytes) -> bytes:
    return join([one if isinstance(one, bytes) else encode(one) for one in members])


def ends(publisher: FakePublisher) -> dict[str, tuple[str, str]]:
    found = [r for m in publisher.to("maniple.results") for r in decode_results(m.body)]
    return {r.id: (r.status.value, r.error.code.value if r.error else "") for r in found}


# --- submissions ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["onward", "policies"])
async def test_a_dispatcher_that_fails_over_one_submission_sends_the_others(where: str) -> None:
    ingress = Ingress()

    def fails(*about: Any) -> Any:
        name = about[0].id if where == "onward" else about[3]
        if name == "b":
            raise RuntimeError("a bug")
        return original(*about)

    if where == "onward":
        original: Any = ingress.onward
        ingress.submissions._onward = fails
    else:
        policies: Any = ingress.submissions._policies
        original = policies.resolve
        policies.resolve = fails
    await ingress.take([{"id": name} for name in "abc"])
    assert ingress.admitted == ["a", "c"]
    (record,) = ingress.recorded
    (answer,) = ingress.answered
    assert (answer.id, answer.status) == ("b", "rejected")
    assert answer.error == record.error
    assert record.error is not None
    assert "a bug" in record.error.message


async def test_a_message_is_settled_when_all_that_came_of_its_members_is_safe() -> None:
    ingress, held = Ingress(), list[Settlement]()

    def keeps(task: Envelope, _: Any, source: Settlement, __: Any) -> None:
        if task.id == "b":
            raise RuntimeError("a bug")
        held.append(source)

    ingress.submissions._onward = keeps
    delivery: Any = Submission([{"id": name} for name in "abc"])
    ingress.submissions.on_submission(delivery)
    await ingress.drain()
    assert delivery.acked == 0
    for source in held:
        source.settle()
    await ingress.drain()
    assert (delivery.acked, delivery.rejected) == (1, 0)


# --- admitted tasks on their way -------------------------------------------------------------


class Way:
    """A dispatcher's ways back in: from a wait, and from the broker's dead letters."""

    def __init__(self) -> None:
        self.publisher, metrics = FakePublisher(), Metrics()
        traces = DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0)
        self.results = ResultPublisher(self.publisher, metrics, replier=self.publisher)
        self.log = RefusedLog(self.publisher, metrics)
        self.lanes = LanePublisher(
            self.publisher,
            self.results,
            metrics,
            Clock(now=lambda: NOW),
            assignment=Assignment(),
            traces=traces,
            bulkheads=bulkhead_counts(),
        )
        gate: Any = SimpleNamespace(again=self.again)
        self.returns = RetryConsumer(self.lanes, gate, self.log, lambda: NOW, traces=traces)
        long = LongMessages(monotonic)
        self.dead = DeadLetterConsumer(
            self.results,
            metrics,
            lambda: NOW,
            traces=traces,
            bulkheads=bulkhead_counts(),
            long=long,
        )
        self.traces = traces

    def again(self, task: Envelope, source: Settlement) -> None:
        if task.id == "broken":
            raise RuntimeError("a bug")
        self.lanes.send_task(task, source)

    async def take(self, take: Callable[[Any], None], body: bytes) -> None:
        delivery = Delivery(body=body)
        delivery.routing_key = "broker.maniple.lane.a.task"
        delivery.properties = SimpleNamespace(
            message_id="m", message_type="", reply_to="", correlation_id="", content_encoding="",
            timestamp=None,
        )  # fmt: skip
        delivery.headers = {}
        take(delivery)
        for _ in range(3):
            await self.lanes.drain_lanes()
            await self.results.drain_results()
            await self.log.drain_log()
        assert (delivery.acked, delivery.rejected) == (1, 0)

    @property
    def sent(self) -> list[str]:
        found = self.publisher.to("maniple.lanes")
        return [one.id for m in found for one in decode_members(m.body, Envelope)]  # type: ignore[union-attr]  # what we wrote


async def test_what_returns_from_a_wait_goes_on_beside_what_cannot_be_read_or_handled() -> None:
    way = Way()
    odd = newer(envelope("odd", reply_to="theirs", correlation_id="c"))
    members = (envelope("a"), odd, envelope("broken"), b"7", envelope("z"))
    await way.take(way.returns.on_retry, bundle(*members))
    assert way.sent == ["a", "z"]
    assert ends(way.publisher) == {
        "odd": ("failed", "undecodable"),
        "broken": ("failed", "agent_lost"),
    }
    (answer,) = way.publisher.to("")
    assert (answer.routing_key, answer.correlation_id) == ("theirs", "c")
    assert sorted(m.body for m in way.publisher.to("maniple.dead")) == sorted([b"7", odd])


async def test_what_cannot_even_be_told_of_is_kept_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way, odd = Way(), newer(envelope("odd"))

    def end(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(way.lanes, "end_task", end)
    await way.take(way.returns.on_retry, bundle(envelope("a"), odd))
    assert way.sent == ["a"]
    assert [m.body for m in way.publisher.to("maniple.dead")] == [odd]


async def test_of_a_dead_letter_each_task_ends_that_can_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way = Way()

    def gives_up(result: Result, task: Envelope, done: Any) -> Any:
        if task.id == "broken":
            raise RuntimeError("a bug")
        return original(result, task, done)

    original: Any = way.traces.given_up
    monkeypatch.setattr(way.traces, "given_up", gives_up)
    await way.take(
        way.dead.on_dead_letter,
        bundle(envelope("a"), newer(envelope("odd")), envelope("broken"), b"7"),
    )
    found = ends(way.publisher)
    assert {name: found.get(name) for name in ("a", "odd")} == {
        "a": ("failed", "agent_lost"),
        "odd": ("failed", "agent_lost"),
    }
    assert len(found) == 3  # whoever it was, somebody was told


def test_of_a_task_that_cannot_be_read_all_that_can_be_is_kept() -> None:
    task = envelope("a", tenant="blue", reply_to="r", correlation_id="c", attempt=3)
    (odd,) = decode_members(bundle(newer(task)), Envelope)
    assert isinstance(odd, InvalidMessage)
    assert remnant_of(odd, NOW) == task
    for body in (b"7", b"{}", b'{"id":"a"}', b'{"id":5,"capability":"a"}', b"[", b"\xff"):
        assert remnant_of(InvalidMessage(ErrorCode.UNDECODABLE, "", body=body), NOW) is None


# --- agents ----------------------------------------------------------------------------------


async def test_an_agent_runs_what_it_can_read_of_a_bundle() -> None:
    agent = Agent()
    delivery = Delivery(body=bundle(envelope("a"), newer(envelope("odd")), b"7", envelope("z")))
    await agent.take(delivery)
    assert agent.executor.ids == ["a", "z"]
    assert [(r.id, r.status, r.error and r.error.code) for r in agent.results()] == [
        ("odd", "failed", "undecodable")
    ]
    assert delivery.acked == 0
    for name in "az":
        await agent.finish(name)
    assert (delivery.acked, delivery.rejected) == (1, 0)


@pytest.mark.parametrize("body", [b"[", b"7", b"[7]", b'["a",{}]'])
async def test_an_agent_leaves_what_is_no_task_at_all_to_the_dispatchers(body: bytes) -> None:
    agent, delivery = Agent(), Delivery(body=body)
    await agent.take(delivery)
    assert (delivery.acked, delivery.rejected) == (0, 1)


async def test_an_agent_takes_what_a_newer_dispatcher_says_about_attempts() -> None:
    agent = Agent()
    body = encode(envelope("a"))[:-1] + b',"retry":{"codes":["sunspots"]},"colour":"red"}'
    await agent.take(Delivery(body=bundle(body)))
    assert agent.executor.ids == ["a"]


# --- clients ---------------------------------------------------------------------------------


class Client:
    """The receiving end of a client."""

    def __init__(self, *names: str) -> None:
        outstanding = OutstandingHandles()
        self._carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
        self.handles = {name: TaskHandle(name, "default", "a.task", b"") for name in names}
        for handle in self.handles.values():
            outstanding.add_ticket(handle)

    def hear(self, body: bytes, message_type: str = RESULTS_TYPE) -> None:
        delivery: Any = Delivery(body=body)
        delivery.properties = SimpleNamespace(message_type=message_type)
        delivery.routing_key = self._carrier._replies.address.removeprefix(REPLY_PREFIX)
        self._carrier._on_delivery(delivery)
        assert delivery.acked == 1


async def test_a_client_hears_of_all_its_tasks_beside_a_result_that_cannot_be_read() -> None:
    client = Client("a", "odd", "z")
    good = [encode(Result(id=n, capability="a.task", status=Status.SUCCEEDED)) for n in "az"]
    client.hear(join([good[0], b'{"id":"odd","capability":"a.task","status":7}', b"7", good[1]]))
    assert [await client.handles[name].result(1) for name in "az"] == [None, None]
    with pytest.raises(ManipleError, match="cannot be read"):
        await client.handles["odd"].result(1)


async def test_a_client_that_is_older_than_the_cluster_hears_what_it_does_not_know() -> None:
    client = Client("a", "b", "c")
    newer = (
        b'{"id":"a","capability":"a.task","status":"failed","error":%b}'
        % b'{"code":"sunspots","message":"too many"}',
        b'{"id":"b","capability":"a.task","status":"parked"}',
        b'{"id":"c","capability":"a.task","status":"succeeded","output":1}',
    )
    client.hear(join(newer))
    for name, code in (("a", "sunspots"), ("b", ErrorCode.HANDLER_ERROR)):
        with pytest.raises(TaskError) as caught:
            await client.handles[name].result(1)
        assert caught.value.code == code
    assert await client.handles["c"].result(1) == 1


async def test_a_report_of_progress_that_cannot_be_read_costs_no_other() -> None:
    client = Client("a")
    report = Progress(id="a", capability="a.task", attempt=1, value=msgspec.Raw(b"5"), at=NOW)
    client.hear(join([b"{}", encode(report)]), PROGRESS_TYPE)
    assert await anext(client.handles["a"].progress()) == 5


# --- what is not known here ------------------------------------------------------------------


def test_a_status_that_is_not_known_is_an_end_without_success() -> None:
    (result,) = decode_results(b'[{"id":"1","capability":"a","status":"parked"}]')
    assert isinstance(error_of(result), TaskError)
    reader = FirstWins()
    reader.take(Entry(Position(1), result))
    fate = reader.get(TaskKey("default", "1"))
    assert fate is not None
    assert (fate.state, reader.terminal) == ("parked", 1)
    assert encode(result).count(b'"parked"') == 1


@pytest.mark.parametrize("value", ["", "With Space", "x" * 65, "Upper", "1", "a\n", 5, None])
def test_what_is_no_word_is_no_status(value: Any) -> None:
    body = encode([{"id": "1", "capability": "a", "status": value}])
    (found,) = decode_members(body, Result)
    assert isinstance(found, InvalidMessage)


def test_a_policy_still_knows_its_error_codes() -> None:
    retry = {"kind": "retry", "name": "p", "spec": {"codes": ["sunspots"]}}
    with pytest.raises(ValueError, match="codes"):
        PolicySet([parse_policy(retry)])
