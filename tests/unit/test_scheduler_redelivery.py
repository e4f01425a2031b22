"""Tasks whose agent was lost, and those of which it only seemed so."""

from datetime import timedelta

import pytest

from maniple.errors import ErrorCode
from maniple_agent import publisher, suspect_redelivery
from waiting import wait_until
from work_with_fakes import NOW, Agent, Delivery, envelope


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


async def test_a_copy_does_not_start_before_what_was_redelivered_is_safe_elsewhere() -> None:
    agent, lost = Agent(), Delivery(envelope("1"), envelope("2"), redelivered=True)
    agent.publisher.silent = {"a.task"}
    await agent.take(lost)
    await agent.take(Delivery(envelope("2", lost=1), envelope("3"), envelope("1", lost=1)))
    assert (agent.executor.ids, lost.acked) == (["3"], 0)
    agent.publisher.freed.set()
    await wait_until(lambda: agent.executor.ids == ["3", "2", "1"], 1)
    assert lost.acked == 1


async def test_one_that_is_not_confirmed_holds_up_its_bundle_and_no_other_task() -> None:
    agent = Agent()
    stuck = Delivery(envelope("1"), envelope("2", lane="other"), redelivered=True)
    agent.publisher.silent = {"other"}
    await agent.take(stuck)
    await agent.take(Delivery(envelope("4"), redelivered=True))
    ids = ("1", "4", "5")
    await agent.take(Delivery(*(envelope(name, lost=int(name != "5")) for name in ids)))
    assert [bundle[0].id for _, bundle in agent.moved()] == ["1", "4"]
    await wait_until(lambda: set(agent.executor.ids) == {"4", "5"}, 1)
    assert stuck.acked == 0


async def test_a_copy_does_not_start_before_the_acknowledgement_of_its_bundle_is_written() -> None:
    agent, lost = Agent(), Delivery(envelope("1"), redelivered=True)
    lost.written.clear()
    await agent.take(lost)
    await agent.take(Delivery(envelope("1", lost=1), envelope("2")))
    await wait_until(lambda: lost.acked == 1, 1)
    assert agent.executor.ids == ["2"]
    lost.written.set()
    await wait_until(lambda: agent.executor.ids == ["2", "1"], 1)


async def test_a_suspect_that_is_held_holds_up_no_other_suspect() -> None:
    agent = Agent()
    agent.publisher.silent = {"a.task.suspect"}
    await agent.take(Delivery(envelope("s1", lost=2), redelivered=True), suspect=True)
    for name in ("s1", "s2"):
        await agent.take(Delivery(envelope(name, lost=3)), suspect=True)
    assert agent.executor.ids == ["s2"]


async def test_an_acknowledgement_that_takes_long_is_not_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspect_redelivery, "ACK_SECONDS", 0.05)
    agent, lost = Agent(), Delivery(envelope("1"), redelivered=True)
    lost.written.clear()
    await agent.take(lost)
    await agent.take(Delivery(envelope("1", lost=1)))
    await wait_until(lambda: agent.executor.ids == ["1"], 1)
    lost.written.set()
    await wait_until(lambda: lost.flushes == 1, 1)


async def test_an_acknowledgement_that_cannot_be_written_stops_no_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent, lost = Agent(), Delivery(envelope("1"), redelivered=True)
    lost.fault = RuntimeError("a bug")
    await agent.take(lost)
    await agent.take(Delivery(envelope("1", lost=1)))
    await wait_until(lambda: agent.executor.ids == ["1"], 1)
    assert "an acknowledgement of a lost task could not be written" in caplog.text


async def test_a_bundle_that_cannot_be_settled_stops_no_work() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    agent, lost = Agent(), Delivery(envelope("1"), redelivered=True)
    lost.ack = fail  # type: ignore[method-assign]
    await agent.take(lost)
    await agent.take(Delivery(envelope("1", lost=1)))
    await wait_until(lambda: agent.executor.ids == ["1"], 1)


async def test_a_redelivered_task_that_may_run_once_ends() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1", capability="a.once", lane="a.once"), redelivered=True)
    await agent.take(delivery)
    (result,) = agent.results()
    assert result.error is not None
    assert (result.error.code, result.lost, delivery.acked) == (ErrorCode.AGENT_LOST, 1, 1)


async def test_a_moved_task_that_may_run_once_ends() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1", capability="a.once", lane="a.once", lost=1))
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


async def test_what_goes_back_to_a_full_lane_waits_in_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "REFUSED_PAUSE", 1.0)
    agent, delivery = Agent(), Delivery(envelope("1"), redelivered=True)
    agent.publisher.full = {"a.task"}
    await agent.take(delivery)
    assert [(key, bundle[0].lost) for key, bundle in agent.moved("maniple.delay")] == [("1", 1)]
    assert delivery.acked == 1
