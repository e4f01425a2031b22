"""An agent's work on bundles, with executors that the tests decide for."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.codec import decode_envelopes, decode_results, encode, join
from maniple.errors import ErrorCode, PublishRefused
from maniple.execution import Outcome, failed
from maniple.messages import Envelope, Result, Status
from maniple.service.outlets import ResultOutlet
from maniple.service.telemetry import Metrics
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskRegistry, task
from maniple.transport import Outgoing, Publisher
from maniple_agent import departures, work
from maniple_agent.departures import Departures
from maniple_agent.executors import Job, Spawn
from maniple_agent.progress import ProgressReports
from maniple_agent.work import Work
from waiting import wait_until

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
OK = Outcome(b"1")


@task("a.task")
async def a_task(payload: Any) -> Any:
    return payload


@task("a.once", on_lost="fail")
async def a_task_once(payload: Any) -> Any:
    return payload


class FakePublisher(Publisher):
    """Keeps what is published; refuses the routing keys in `full`."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.full: set[str] = set()

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        del timeout
        if message.routing_key in self.full:
            raise PublishRefused(message.exchange, message.routing_key, unroutable=False)
        self.sent.append(message)

    def to(self, exchange: str) -> list[Outgoing]:
        return [message for message in self.sent if message.exchange == exchange]


class FakeExecutor:
    """Takes jobs up to its capacity and keeps them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs: list[Job] = []

    @property
    def free(self) -> int:
        return self.capacity - len(self.jobs)

    async def start(self, _spawn: Spawn) -> None: ...

    async def stop(self) -> None: ...

    def run(self, jobs: Sequence[Job]) -> None:
        assert len(jobs) <= self.free
        self.jobs += jobs

    @property
    def ids(self) -> list[str]:
        return [job.envelope.id for job in self.jobs]


class Delivery(SimpleNamespace):
    """A delivery that counts how it was settled."""

    def __init__(self, *envelopes: Envelope, redelivered: bool = False, body: bytes = b"") -> None:
        body = body or join([encode(envelope) for envelope in envelopes])
        super().__init__(body=body, redelivered=redelivered, acked=0, rejected=0)

    def ack(self) -> None:
        self.acked += 1

    def reject(self) -> None:
        self.rejected += 1


class Agent:
    """Work with fakes around it."""

    def __init__(self, capacity: int = 100) -> None:
        self.publisher = FakePublisher()
        self.executor = FakeExecutor(capacity)
        self.now = NOW
        metrics = Metrics()
        results = ResultOutlet(self.publisher, metrics)
        self.departures = Departures(self.publisher, results, metrics)
        self.work = Work(
            "agent-1",
            TaskRegistry([a_task, a_task_once]),
            self.departures,
            ProgressReports(results, lambda: self.now),
            metrics=metrics,
            clock=lambda: self.now,
        )
        self.work.equip({Kind.ASYNC: self.executor})

    async def take(self, delivery: Delivery, *, suspect: bool = False) -> None:
        self.work.take(delivery, suspect=suspect)  # type: ignore[arg-type]  # a fake
        await self.settle()

    async def finish(self, name: str, outcome: Outcome = OK) -> None:
        job = next(job for job in self.executor.jobs if job.envelope.id == name)
        self.executor.jobs.remove(job)
        self.work.outcome(job, outcome, 0.01)
        await self.settle()

    async def settle(self) -> None:
        await asyncio.sleep(0)
        await self.departures.drain()
        await asyncio.sleep(0)

    def results(self) -> list[Result]:
        sent = self.publisher.to("maniple.results")
        return [result for message in sent for result in decode_results(message.body)]

    def moved(self, exchange: str = "maniple.lanes") -> list[tuple[str, list[Envelope]]]:
        sent = self.publisher.to(exchange)
        return [(message.routing_key, decode_envelopes(message.body)) for message in sent]


def envelope(name: str, **changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "id": name,
        "capability": "a.task",
        "lane": "a.task",
        "submitted_at": NOW,
        "deadline": NOW + timedelta(hours=1),
    }
    return Envelope(**fields | changes)


async def test_a_bundle_is_acknowledged_when_all_its_results_are_confirmed() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"), envelope("2"))
    await agent.take(delivery)
    await agent.finish("1")
    assert ([result.id for result in agent.results()], delivery.acked) == (["1"], 0)
    await agent.finish("2", failed(ErrorCode.HANDLER_ERROR, "no"))
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED, Status.FAILED]
    assert delivery.acked == 1


async def test_a_redelivered_bundle_is_split_into_tasks_that_travel_alone() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1"), envelope("2", lost=1), redelivered=True)
    await agent.take(delivery)
    assert agent.executor.jobs == []
    assert [(key, [e.id for e in bundle]) for key, bundle in agent.moved()] == [
        ("a.task", ["1"]),
        ("a.task.suspect", ["2"]),
    ]
    assert [bundle[0].lost for _, bundle in agent.moved()] == [1, 2]
    assert delivery.acked == 1


async def test_a_redelivered_task_that_may_run_once_ends() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1", capability="a.once", lane="a.once"), redelivered=True)
    await agent.take(delivery)
    (result,) = agent.results()
    assert result.error is not None
    assert (result.error.code, result.lost, delivery.acked) == (ErrorCode.AGENT_LOST, 1, 1)


async def test_one_suspect_runs_at_a_time() -> None:
    agent = Agent()
    first, second = Delivery(envelope("s1", lost=2)), Delivery(envelope("s2", lost=2))
    await agent.take(first, suspect=True)
    await agent.take(second, suspect=True)
    await agent.take(Delivery(envelope("3")))
    assert agent.executor.ids == ["s1", "3"]
    await agent.finish("s1")
    assert agent.executor.ids == ["3", "s2"]
    assert (first.acked, second.acked) == (1, 0)


async def test_an_expired_suspect_does_not_hold_up_the_next() -> None:
    agent = Agent(capacity=1)
    await agent.take(Delivery(envelope("busy")))
    soon = NOW + timedelta(seconds=1)
    await agent.take(Delivery(envelope("s1", lost=2, deadline=soon)), suspect=True)
    await agent.take(Delivery(envelope("s2", lost=2)), suspect=True)
    agent.now = soon
    await agent.finish("busy")
    await wait_until(lambda: agent.executor.ids == ["s2"], 1)


async def test_what_has_not_started_within_a_second_goes_back_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent, clock = Agent(capacity=1), SimpleNamespace(now=0.0)
    monkeypatch.setattr(work, "monotonic", lambda: clock.now)
    delivery = Delivery(envelope("1"), envelope("2"), envelope("3"))
    await agent.take(delivery)
    clock.now = 0.9
    agent.work.dissolve()
    clock.now = 1.1
    await agent.take(Delivery(envelope("young")))
    agent.work.dissolve()
    await agent.settle()
    assert [(key, [e.id for e in bundle]) for key, bundle in agent.moved()] == [
        ("a.task", ["2"]),
        ("a.task", ["3"]),
    ]
    assert [bundle[0].lost for _, bundle in agent.moved()] == [0, 0]
    await agent.finish("1")
    assert (delivery.acked, agent.executor.ids) == (1, ["young"])


async def test_what_goes_back_to_a_full_lane_waits_in_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departures, "REFUSED_PAUSE", 1.0)
    agent, delivery = Agent(), Delivery(envelope("1"), redelivered=True)
    agent.publisher.full = {"a.task"}
    await agent.take(delivery)
    assert [(key, bundle[0].lost) for key, bundle in agent.moved("maniple.delay")] == [("1", 1)]
    assert delivery.acked == 1


async def test_draining_hands_back_what_waits_and_lets_the_rest_end() -> None:
    agent = Agent(capacity=1)
    first, second = Delivery(envelope("1"), envelope("2")), Delivery(envelope("3"))
    await agent.take(first)
    await agent.take(second)
    draining = asyncio.create_task(agent.work.drain(5))
    await wait_until(lambda: second.acked == 1)
    assert [bundle[0].id for _, bundle in agent.moved()] == ["2", "3"]
    late = Delivery(envelope("4"))
    await agent.take(late)
    await wait_until(lambda: late.acked == 1)
    assert not draining.done()
    await agent.finish("1")
    await asyncio.wait_for(draining, 1)
    assert first.acked == 1
    assert agent.executor.jobs == []
    assert all((e.attempt, e.lost) == (1, 0) for _, bundle in agent.moved() for e in bundle)


async def test_draining_does_not_wait_longer_than_it_may() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"))
    await agent.take(delivery)
    await asyncio.wait_for(agent.work.drain(0.05), 1)
    assert delivery.acked == 0


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"deadline": NOW}, Status.EXPIRED, ErrorCode.DEADLINE_EXCEEDED),
        ({"capability": "unknown"}, Status.FAILED, ErrorCode.NO_AGENT),
    ],
)
async def test_what_cannot_run_here_ends_at_once(
    changes: dict[str, Any], status: Status, code: ErrorCode
) -> None:
    agent, delivery = Agent(), Delivery(envelope("1", **changes))
    await agent.take(delivery)
    (result,) = agent.results()
    assert result.error is not None
    assert (result.status, result.error.code, delivery.acked) == (status, code, 1)


async def test_what_expires_while_it_waits_is_not_started() -> None:
    agent = Agent(capacity=1)
    soon = NOW + timedelta(seconds=1)
    delivery = Delivery(envelope("2", deadline=soon))
    await agent.take(Delivery(envelope("1")))
    await agent.take(delivery)
    agent.now = soon
    await agent.finish("1")
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED, Status.EXPIRED]
    assert (agent.executor.jobs, delivery.acked) == ([], 1)


async def test_a_failed_attempt_waits_in_the_broker_for_the_next() -> None:
    agent, delivery = Agent(), Delivery(envelope("1", max_attempts=3))
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    ((_, (again,)),) = agent.moved("maniple.delay")
    assert (again.attempt, again.id, delivery.acked) == (2, "1", 1)
    assert agent.results() == []


async def test_without_room_for_another_attempt_the_last_one_counts() -> None:
    agent, delivery = Agent(), Delivery(envelope("1", max_attempts=3))
    agent.publisher.full = {"0.1", "0.25", "0.5", "1"}
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    (result,) = agent.results()
    assert (result.status, result.attempt, delivery.acked) == (Status.FAILED, 1, 1)


@pytest.mark.parametrize(
    ("body", "settled"),
    [(b"[]", (1, 0)), (b"garbage", (0, 1)), (b'[{"id": 1}]', (0, 1))],
)
async def test_no_delivery_is_held_for_ever(body: bytes, settled: tuple[int, int]) -> None:
    agent = Agent()
    delivery = Delivery(body=body)
    await agent.take(delivery)
    assert (delivery.acked, delivery.rejected) == settled


async def test_an_attempt_that_runs_for_a_second_is_recorded_once() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1"), envelope("2")))
    for seconds in (0.5, 1.5, 2.5):
        agent.now = NOW + timedelta(seconds=seconds)
        agent.work.announce_running()
    await agent.settle()
    (told,) = agent.publisher.to("maniple.events")
    assert told.routing_key == "task.running"
    assert (told.body.count(b'"id"'), told.body.count(b'"1"')) == (2, 1)


async def test_a_task_keeps_its_timeout_and_never_passes_its_deadline() -> None:
    agent = Agent()
    soon = NOW + timedelta(seconds=3)
    await agent.take(Delivery(envelope("1", timeout=9.0), envelope("2", deadline=soon)))
    assert [job.timeout for job in agent.executor.jobs] == [9.0, 3.0]


async def test_what_is_handed_back_is_what_came() -> None:
    agent = Agent(capacity=1)
    came = envelope("2", attempt=2, lost=1, waits=3, tenant="acme", policies={"p": 1})
    await agent.take(Delivery(envelope("1"), came))
    await agent.work.drain(0.01)
    assert agent.moved() == [("a.task", [came])]
