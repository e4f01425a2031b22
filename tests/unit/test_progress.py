"""How much of what handlers report an agent keeps, whatever the broker does."""

from typing import Any

from msgspec import Raw

from maniple.codec import decode_list, encode
from maniple.messages import MAX_PROGRESS, Progress
from maniple.topology import REPLY_PREFIX
from maniple_agent import progress
from maniple_agent.jobs import Job
from work_with_fakes import Agent, Delivery, envelope

ROUNDS = 100
CLIENT = f"{REPLY_PREFIX}client-1"
PADDING = "x" * (MAX_PROGRESS - 100)


async def running(agent: Agent, tasks: int) -> list[Job]:
    await agent.take(Delivery(*(envelope(str(n), reply_to=CLIENT) for n in range(tasks))))
    return agent.executor.jobs


def reported(agent: Agent, exchange: str) -> dict[str, list[Any]]:
    """Return what was published of each task."""
    told: dict[str, list[Any]] = {}
    for message in agent.publisher.to(exchange):
        for report in decode_list(message.body, Progress):
            told.setdefault(report.id, []).append(bytes(report.value))
    return told


def floods(agent: Agent, jobs: list[Job], padding: str = PADDING) -> None:
    """Report ever larger numbers of each task."""
    for number in range(ROUNDS):
        for job in jobs:
            agent.work.progress(job, Raw(encode([number, padding])))


async def test_a_broker_that_takes_nothing_makes_progress_coarser_and_nothing_grow() -> None:
    agent = Agent()
    jobs = await running(agent, 40)
    agent.publisher.up.clear()
    floods(agent, jobs)
    await agent.settle()
    floods(agent, jobs)
    assert agent.reports.kept <= 2 * len(jobs) * MAX_PROGRESS
    agent.publisher.up.set()
    for _ in range(3):
        await agent.settle()
    last = encode([ROUNDS - 1, PADDING])
    for exchange in ("maniple.events", "maniple.replies"):
        told = reported(agent, exchange)
        assert len(told) == len(jobs)
        assert all(len(values) == 2 and values[-1] == last for values in told.values())
    assert agent.reports.kept == 0


async def test_progress_of_any_number_of_tasks_stays_within_its_budget() -> None:
    agent = Agent(capacity=1000)
    jobs = await running(agent, 1000)
    agent.publisher.up.clear()
    floods(agent, jobs[:500])
    assert progress.BUDGET - 2 * MAX_PROGRESS < agent.reports.kept <= progress.BUDGET
    floods(agent, jobs[500:])
    assert agent.reports.kept <= progress.BUDGET
    agent.publisher.up.set()
    for _ in range(3):
        await agent.settle()
    assert agent.reports.kept == 0
    agent.work.progress(jobs[-1], Raw(b"1"))
    await agent.settle()
    assert reported(agent, "maniple.events")[jobs[-1].envelope.id] == [b"1"]


async def test_the_last_value_is_sent_though_its_task_ended_before_its_turn() -> None:
    agent = Agent()
    (job,) = await running(agent, 1)
    agent.publisher.up.clear()
    floods(agent, [job], "")
    await agent.settle()
    agent.work.progress(job, Raw(b"2"))
    agent.executor.cancel(job)
    agent.work.progress(job, Raw(b"3"))
    agent.publisher.up.set()
    await agent.settle()
    await agent.settle()
    assert reported(agent, "maniple.replies")["0"][-1] == b"2"
    assert agent.reports.kept == 0


async def test_a_reader_who_is_gone_keeps_no_progress_back() -> None:
    agent = Agent()
    (job,) = await running(agent, 1)
    agent.publisher.full = {"client-1"}
    for number in range(3):
        agent.work.progress(job, Raw(b"%d" % number))
        await agent.settle()
    assert reported(agent, "maniple.events")["0"] == [b"0", b"1", b"2"]
    assert agent.reports.kept == 0
