"""When a loop counts as blocked, and when as lost."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from maniple_agent.domain.blocking import BLOCKED_AFTER, LOST_AFTER, LoopHealth, LoopState
from maniple_runtime.metric_names import QUEUE_SECONDS
from work_with_fakes import NOW, Agent, Delivery, envelope

LONG = 1e6


def test_a_loop_is_blocked_while_it_is_silent_and_goes_on_when_it_answers() -> None:
    health = LoopHealth()
    looks = [(0.1, False), (BLOCKED_AFTER, False), (BLOCKED_AFTER + 0.1, False), (0.0, False)]
    assert [
        health.judge_silence(silent, given_up=given_up, now=n)
        for n, (silent, given_up) in enumerate(looks)
    ] == [
        LoopState.ANSWERS,
        LoopState.ANSWERS,
        LoopState.BLOCKED,
        LoopState.ANSWERS,
    ]


def test_a_loop_that_is_behind_is_blocked_until_the_next_look() -> None:
    health = LoopHealth()
    assert health.judge_silence(0.0, given_up=True, now=0.0, behind=True) is LoopState.BLOCKED
    assert health.judge_silence(0.0, given_up=True, now=LONG) is LoopState.ANSWERS


def test_a_loop_is_not_lost_while_somebody_waits_for_what_blocks_it() -> None:
    health = LoopHealth()
    assert health.judge_silence(LONG, given_up=False, now=LONG) is LoopState.BLOCKED
    assert health.judge_silence(LONG, given_up=True, now=LONG + 1) is LoopState.BLOCKED
    assert health.judge_silence(LONG, given_up=True, now=LONG + 1 + LOST_AFTER) is LoopState.BLOCKED
    assert health.judge_silence(LONG, given_up=True, now=LONG + 2 + LOST_AFTER) is LoopState.LOST


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=50))
def test_a_loop_is_lost_only_after_it_was_given_up_for_long_enough(
    looks: list[tuple[float, bool]],
) -> None:
    health, since = LoopHealth(), None
    for now, (silent, given_up) in enumerate(looks):
        hopeless = silent > BLOCKED_AFTER and given_up
        since = (now if since is None else since) if hopeless else None
        lost = since is not None and now - since > LOST_AFTER
        assert (health.judge_silence(silent, given_up=given_up, now=now) is LoopState.LOST) == lost


async def test_what_has_not_begun_waits_again_and_is_handed_back_in_time() -> None:
    agent = Agent()
    delivery = Delivery(*(envelope(name) for name in "123"))
    await agent.take(delivery)
    first, *others = agent.executor.jobs
    agent.executor.jobs = [first]
    agent.executor.stuck = ["blocked"] * 99
    agent.work.returned(others)
    await agent.settle()
    assert (agent.work.running, [*agent.work.waiting]) == ({first}, others)
    for job in agent.work.waiting:
        assert (job.started_at, job.settled) == (None, False)
        job.bundle.opened_at -= LONG
    agent.work.dissolve()
    await agent.settle()
    moved = [(lane, task.id) for lane, tasks in agent.moved() for task in tasks]
    assert moved == [("a.task", "2"), ("a.task", "3")]
    await agent.finish("1")
    assert delivery.acked == 1
    assert [result.id for result in agent.results()] == ["1"]


async def test_who_drains_has_handed_back_what_could_not_begin_before_it_is_done() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1"), envelope("2"))
    await agent.take(delivery)
    draining = asyncio.create_task(agent.work.drain_jobs(LONG))
    await asyncio.sleep(0)
    agent.work.returned(agent.executor.jobs)
    await draining
    assert [(task.id, task.lost) for _, tasks in agent.moved() for task in tasks] == [
        ("1", 0),
        ("2", 0),
    ]
    assert delivery.acked == 1


async def test_what_begins_again_is_announced_again_and_its_wait_counted_once() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1", dispatched_at=NOW)))
    (job,) = agent.executor.jobs
    job.announced = True
    agent.executor.jobs = []
    agent.work.returned([job])
    await agent.settle()
    assert agent.executor.jobs == [job]
    assert not job.announced
    value = agent.metrics.registry.get_sample_value
    assert value(f"{QUEUE_SECONDS.name}_count", {"capability": "a.task"}) == 1


async def test_what_was_given_back_and_stopped_meanwhile_does_not_wait() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("1")))
    (job,) = agent.executor.jobs
    agent.work.stopped.stop_jobs([job])
    agent.work.returned([job])
    await agent.settle()
    assert (len(agent.work.running), [*agent.work.waiting]) == (0, [])
