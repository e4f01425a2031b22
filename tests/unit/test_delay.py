"""Tasks that wait in the broker, each of which hears of its own end."""

import asyncio
from datetime import timedelta

import pytest

from maniple.amqp import Outgoing
from maniple.clock import Clock
from maniple.errors import ErrorCode, InvalidMessage, ManipleError
from maniple.timings import Queues
from maniple.topology import DELAY_TIERS, RETRY_QUEUE, tier_name
from maniple_dispatcher.egress import delay as module
from maniple_dispatcher.egress.delay import DelayPublisher
from maniple_dispatcher.pipeline.verdicts import Wait
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.telemetry import Metrics
from waiting import wait_until
from work_with_fakes import NOW, FakePublisher, envelope


def broken(_error: ManipleError | None) -> None:
    raise RuntimeError("a bug")


async def test_an_end_that_raises_keeps_no_other_task_of_the_bundle_waiting() -> None:
    delays = DelayPublisher(FakePublisher(), Metrics(), clock=Clock(now=lambda: NOW))
    told = list[ManipleError | None]()
    for done in (broken, told.append):
        delays.delay_task(Wait(1.0, envelope("a")), done, insist=False)
    await delays.drain_delays()
    assert told == [None]


@pytest.mark.parametrize("insist", [True, False])
async def test_what_a_tier_does_not_confirm_waits_in_another(insist: bool) -> None:
    publisher, told = FakePublisher(), list[ManipleError | None]()
    publisher.silent = {"0.5", "1"}
    delays = DelayPublisher(
        publisher, Metrics(), Queues(patience=0.0, cancel=0.0), clock=Clock(now=lambda: NOW)
    )
    for name in ("a", "b"):
        delays.delay_task(Wait(0.5, envelope(name)), told.append, insist=insist)
    for _ in range(6):
        for _ in range(10):
            await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    await wait_until(lambda: told == [None, None])
    (sent,) = {message.routing_key for message in publisher.to("maniple.delay")}
    assert sent == "2"
    publisher.freed.set()
    await delays.drain_delays()
    assert told == [None, None]  # what is confirmed late is told to nobody again


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4.9])
async def test_what_a_tier_does_not_confirm_waits_in_none_that_outlasts_its_deadline(
    seconds: float,
) -> None:
    publisher, told = FakePublisher(), list[ManipleError | None]()
    publisher.silent = {tier_name(tier) for tier in DELAY_TIERS[:6]}
    delays = DelayPublisher(
        publisher, Metrics(), Queues(patience=0.0), clock=Clock(now=lambda: NOW)
    )
    task = envelope("a", deadline=NOW + timedelta(seconds=seconds))
    delays.delay_task(Wait(0.5, task), told.append, insist=True)
    for _ in range(30):
        await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    assert publisher.sent == []  # not in "10", which would take it
    publisher.freed.set()
    await delays.drain_delays()
    assert told == [None]


@pytest.mark.parametrize("insist", [True, False])
async def test_to_a_tier_that_confirms_nothing_hardly_anything_is_sent_any_more(
    insist: bool,
) -> None:
    now, begun, told = [1000.0], list[str](), list[ManipleError | None]()

    class Counting(FakePublisher):
        async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
            begun.append(message.routing_key)
            await super().publish(message, timeout=timeout)

    publisher = Counting()
    publisher.silent = {"0.5", "1"}
    delays = DelayPublisher(
        publisher, Metrics(), Queues(), clock=Clock(now=lambda: NOW, monotonic=lambda: now[0])
    )
    for second in range(400):
        now[0] += 1.0
        for tier in (0.5, 1.0):
            delays.delay_task(Wait(tier, envelope(str(second))), told.append, insist=insist)
        for _ in range(10):
            await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    assert max(begun.count(tier) for tier in publisher.silent) < 32  # which would stop a channel
    assert len(told) >= 800 - 40


async def test_while_no_tier_confirms_anything_a_task_waits_for_the_next_that_may_be_tried() -> (
    None
):
    publisher, told = FakePublisher(), list[ManipleError | None]()
    publisher.silent = set(map(tier_name, DELAY_TIERS))
    times = Queues(patience=0.0, cancel=0.0, stuck=2.0, most_stuck=2.0)
    delays = DelayPublisher(publisher, Metrics(), times, clock=Clock(now=lambda: NOW))
    delays.delay_task(Wait(0.5, envelope("a")), told.append, insist=False)
    for _ in range(len(DELAY_TIERS) + 1):
        for _ in range(10):
            await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    assert (delays._pausing, told) == (1, [])
    publisher.silent.clear()
    await delays.drain_delays()  # which waits for it too
    assert told == [None]


async def test_a_tier_that_refuses_gets_no_copy_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [1000.0], list[ManipleError | None]()
    monkeypatch.setattr(module, "ROUND", 0.01)
    publisher = FakePublisher()
    publisher.full = {RETRY_QUEUE.name, *map(tier_name, DELAY_TIERS)}
    delays = DelayPublisher(
        publisher, Metrics(), Queues(), clock=Clock(now=lambda: NOW, monotonic=lambda: now[0])
    )
    delays.delay_task(Wait(1.0, envelope("a")), told.append, insist=True)
    for _ in range(30):
        now[0] += 1.0
        delays.answered(now[0])  # others have their confirms all the while
        delays.redirect_overdue(taking=True)
        await asyncio.sleep(0.01)
    assert (publisher.sent, told) == ([], [])
    publisher.full = set()
    await delays.drain_delays()
    assert (len(publisher.sent), told) == (1, [None])


async def test_who_insists_passes_over_a_full_tier_for_the_next_shorter_that_confirms() -> None:
    publisher, told = FakePublisher(), list[ManipleError | None]()
    publisher.full, publisher.silent = {"1", "0.25"}, {"0.5"}
    times = Queues(patience=0.0, stuck=3600.0, most_stuck=3600.0)
    delays = DelayPublisher(publisher, Metrics(), times, clock=Clock(now=lambda: NOW))
    delays.delay_task(Wait(0.5, envelope("a")), told.append, insist=False)
    for _ in range(3):
        for _ in range(10):
            await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    publisher.sent.clear()
    delays.delay_task(Wait(1.0, envelope("b")), told.append, insist=True)
    await wait_until(lambda: any(one.routing_key == "0.1" for one in publisher.sent))
    publisher.full |= {"0.1"}
    delays.delay_task(Wait(1.0, envelope("c")), told.append, insist=True)
    await wait_until(lambda: any(one.routing_key == RETRY_QUEUE.name for one in publisher.sent))


async def test_a_tier_that_is_not_confirmed_yet_is_waited_for() -> None:
    publisher, told = FakePublisher(), list[ManipleError | None]()
    publisher.silent = {"0.5"}
    delays = DelayPublisher(
        publisher, Metrics(), Queues(patience=3600.0), clock=Clock(now=lambda: NOW)
    )
    delays.delay_task(Wait(0.5, envelope("a")), told.append, insist=True)
    for _ in range(3):
        await asyncio.sleep(0)
        delays.redirect_overdue(taking=True)
    assert (publisher.sent, told) == ([], [])
    publisher.freed.set()
    await delays.drain_delays()
    assert (len(publisher.sent), told) == (1, [None])


async def test_an_end_that_raises_does_not_end_what_keeps_refused_input() -> None:
    log = RefusedLog(FakePublisher(), Metrics())
    log.keep(b"x", InvalidMessage(ErrorCode.UNDECODABLE, "bad"), {}, broken)
    (task,) = log._tasks
    await log.drain_log()
    assert task.exception() is None
