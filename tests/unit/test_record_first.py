"""How a task ends that nobody runs: recorded while its source is ours, and only then told."""

import asyncio

import pytest

from maniple.amqp import Outgoing
from maniple.errors import BrokerUnavailable, ManipleError
from maniple.messages import Result, Status
from maniple_runtime.publish import record_first
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.telemetry import Metrics
from waiting import wait_until
from work_with_fakes import FakePublisher

REFUSAL = Result(id="1", capability="a.task", status=Status.REJECTED)


class Losing(FakePublisher):
    """Loses its connection `losses` times, before it confirms."""

    losses = 0
    refused = 0

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        if message.once and self.losses:
            self.losses -= 1
            raise BrokerUnavailable("lost")
        self.refused += message.routing_key in self.full
        await super().publish(message, timeout=timeout)


class RefusedTask:
    """A task that is refused."""

    def __init__(self) -> None:
        self.publisher = Losing()
        self.results = ResultPublisher(self.publisher, Metrics(), replier=self.publisher)
        self.alive = True
        self.told: list[ManipleError | None] = []

    def refuse(self, reply_to: str | None = "theirs") -> None:
        self.results.record_first.conclude(
            REFUSAL, reply_to, "c", self.told.append, alive=lambda: self.alive
        )

    @property
    def sent(self) -> list[str]:
        return [message.exchange for message in self.publisher.sent]


async def test_nobody_is_told_before_it_is_recorded() -> None:
    task = RefusedTask()
    task.publisher.silent = {"a.task"}
    task.refuse()
    await asyncio.sleep(0.05)  # longer than records wait for company
    assert (task.sent, task.told) == ([], [])
    task.publisher.freed.set()
    await wait_until(lambda: bool(task.told))
    assert (task.sent, task.told) == (["maniple.results", ""], [None])


async def test_it_is_recorded_again_over_a_new_connection_while_its_source_is_ours() -> None:
    task = RefusedTask()
    task.publisher.losses = 2
    task.refuse(None)
    await wait_until(lambda: bool(task.told))
    assert (task.sent, task.told) == (["maniple.results"], [None])


@pytest.mark.parametrize("losses", [0, 1])
async def test_what_comes_again_to_somebody_is_neither_recorded_nor_told(losses: int) -> None:
    task = RefusedTask()
    task.publisher.losses = losses
    task.alive = bool(losses)
    task.refuse()
    task.alive = False
    await wait_until(lambda: bool(task.told))
    assert task.sent == []
    assert [type(one) for one in task.told] == [BrokerUnavailable]


@pytest.mark.parametrize("alive", [True, False])
async def test_a_record_that_is_refused_is_tried_again_only_while_its_source_is_ours(
    alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_first, "REFUSED_PAUSE", 0.0)
    task = RefusedTask()
    task.publisher.full = {"a.task"}
    task.refuse(None)
    await wait_until(lambda: task.publisher.refused > 1)
    task.alive = alive
    if alive:
        task.publisher.full.clear()
    await wait_until(lambda: bool(task.told))
    assert task.sent == ["maniple.results"] * alive
    assert [error is None for error in task.told] == [alive]
