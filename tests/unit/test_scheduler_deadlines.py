"""Whose clock ends a task: the cluster's, never that of the agent's machine."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import Machine
from maniple.clock import Clock
from maniple.codec import decode_submission
from maniple.errors import ErrorCode
from maniple.execution import failed
from maniple.messages import Status
from maniple_agent.completion import MOST_ASKED, DeadlineFate, TaskDeadlines
from maniple_dispatcher.ingress.admission import deadline_of
from maniple_dispatcher.ingress.arrival import RawArrival, check_arrival
from work_with_fakes import NOW, Agent, Delivery, envelope

MINUTE = NOW + timedelta(seconds=60)
OFF = timedelta(seconds=120)


async def test_a_clock_that_is_ahead_ends_nothing_and_gives_the_whole_time() -> None:
    agent = Agent(known=lambda: NOW)
    agent.now = NOW + OFF
    await agent.take(Delivery(envelope("1", deadline=MINUTE, timeout=50.0)))
    assert agent.results() == []
    assert [job.timeout for job in agent.executor.jobs] == [50.0]
    await agent.finish("1")
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED]


async def test_a_clock_that_is_behind_runs_nothing_beyond_its_deadline() -> None:
    known = [NOW]
    agent = Agent(capacity=1, known=lambda: known[0])
    agent.now = NOW - OFF
    await agent.take(Delivery(envelope("1")))
    waits = Delivery(envelope("2", deadline=MINUTE))
    await agent.take(waits)
    known[0] = MINUTE
    await agent.take(Delivery(envelope("3", deadline=MINUTE)))
    await agent.finish("1")
    ends = {result.id: result.status for result in agent.results()}
    assert ends == {"1": Status.SUCCEEDED, "2": Status.EXPIRED, "3": Status.EXPIRED}
    assert waits.acked == 1


async def test_what_waits_in_an_agent_that_is_busy_ends_when_it_is_over() -> None:
    known: list[datetime | None] = [NOW]
    agent = Agent(capacity=1, known=lambda: known[0])
    await agent.take(Delivery(envelope("long", deadline=MINUTE)))
    waits = Delivery(envelope("1", deadline=MINUTE), envelope("2", deadline=MINUTE + OFF))
    suspect = Delivery(envelope("3", deadline=MINUTE, lost=2))
    await agent.take(waits)
    await agent.take(suspect, suspect=True)
    agent.work.dissolve()
    assert agent.results() == []
    for known[0] in (None, MINUTE):
        agent.now = MINUTE
        agent.work.dissolve()
        await agent.settle()
        ends = {result.id: result.status for result in agent.results()}
        assert ends == ({} if known[0] is None else dict.fromkeys("13", Status.EXPIRED))
    assert (waits.acked, suspect.acked) == (0, 1)
    assert [job.envelope.id for job in agent.work.waiting] == ["2"]
    assert agent.executor.ids == ["long"]


async def test_who_does_not_know_the_time_has_a_dispatcher_judge_and_runs_what_comes_back() -> None:
    agent, delivery = Agent(known=lambda: None), Delivery(envelope("1", deadline=MINUTE))
    agent.now = NOW + OFF
    await agent.take(delivery)
    assert (agent.results(), agent.executor.jobs, delivery.acked) == ([], [], 1)
    ((tier, (asked,)),) = agent.moved("maniple.delay")
    assert (tier, asked) == ("0.1", envelope("1", deadline=MINUTE))
    await agent.take(Delivery(asked))
    assert agent.executor.ids == ["1"]
    assert len(agent.moved("maniple.delay")) == 1


async def test_the_same_for_what_waits_in_the_agent_meanwhile() -> None:
    agent = Agent(capacity=1, known=lambda: None)
    delivery = Delivery(envelope("2", deadline=MINUTE))
    await agent.take(Delivery(envelope("1")))
    await agent.take(delivery)
    agent.now = NOW + OFF
    await agent.finish("1")
    assert ([result.id for result in agent.results()], delivery.acked) == (["1"], 1)
    ((_, (asked,)),) = agent.moved("maniple.delay")
    assert asked.id == "2"
    assert len(agent.work.attempts) == 0


@pytest.mark.parametrize(
    ("known", "status"), [(MINUTE, Status.EXPIRED), (NOW, Status.FAILED), (None, Status.FAILED)]
)
async def test_an_attempt_that_took_too_long_has_expired_only_by_the_time_of_the_cluster(
    known: datetime | None, status: Status
) -> None:
    told: list[datetime | None] = [NOW]
    agent = Agent(known=lambda: told[-1])
    task = envelope("1", deadline=MINUTE, timeout=50.0, max_attempts=1)
    await agent.take(Delivery(task))
    agent.now = NOW + OFF
    told.append(known)
    await agent.finish("1", failed(ErrorCode.TIMEOUT, "too long"))
    assert [result.status for result in agent.results()] == [status]


@pytest.mark.parametrize("known", [MINUTE - timedelta(milliseconds=3), None])
async def test_an_attempt_that_took_all_the_time_there_was_has_expired_by_any_later_reading_of_it(
    known: datetime | None,
) -> None:
    told: list[datetime | None] = [NOW]
    agent = Agent(known=lambda: told[-1])
    await agent.take(Delivery(envelope("1", deadline=MINUTE, max_attempts=2)))
    assert [job.timeout for job in agent.executor.jobs] == [60.0]
    told.append(known)
    await agent.finish("1", failed(ErrorCode.TIMEOUT, "too long"))
    assert [result.status for result in agent.results()] == [Status.EXPIRED]


async def test_what_began_while_nobody_knew_the_time_ends_in_time_once_somebody_does() -> None:
    told: list[datetime | None] = [None]
    agent = Agent(known=lambda: told[-1])
    delivery = Delivery(envelope("1", deadline=MINUTE), envelope("2", deadline=MINUTE + OFF))
    await agent.take(delivery)
    for known in (None, NOW, MINUTE):
        assert agent.executor.ids == ["1", "2"]
        told.append(known)
        agent.work.dissolve()
    await agent.settle()
    assert (agent.executor.ids, agent.executor.cancelled) == (["2"], ["1"])
    assert {job.envelope.id for job in agent.work.running} == {"2"}
    assert [(result.id, result.status) for result in agent.results()] == [("1", Status.EXPIRED)]
    await agent.finish("2")
    assert delivery.acked == 1


async def test_what_knew_its_deadline_is_ended_by_its_executor_alone() -> None:
    told = [NOW]
    agent = Agent(known=lambda: told[-1])
    await agent.take(Delivery(envelope("1", deadline=MINUTE)))
    told.append(MINUTE + OFF)  # as after a standstill, in which it may have ended well
    agent.work.dissolve()
    await agent.finish("1")
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED]


async def test_who_does_not_know_the_time_leaves_it_to_dispatchers_if_there_is_any_left() -> None:
    agent = Agent(known=lambda: None)
    agent.now = NOW + OFF
    task = envelope("1", deadline=MINUTE, max_attempts=2)
    for _ in range(2):
        await agent.take(Delivery(task))
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    assert agent.results() == []
    assert [task.attempt for _, (task,) in agent.moved("maniple.delay")] == [1, 2]


def test_what_was_asked_about_is_bounded() -> None:
    deadlines = TaskDeadlines(lambda: None, Clock(now=lambda: NOW))
    for number in range(MOST_ASKED + 10):
        assert (
            deadlines.fate(envelope(str(number), deadline=NOW), deadlines.now())
            is DeadlineFate.ASKED
        )
    assert len(deadlines._asked) == MOST_ASKED


HOUR = st.floats(-3600, 3600)


@given(registry=HOUR, dispatcher=HOUR, agent=HOUR, waited=st.floats(0, 120), late=st.floats(0, 3))
def test_a_task_has_its_ttl_whatever_the_clocks_of_the_machines_that_it_crosses(
    registry: float, dispatcher: float, agent: float, waited: float, late: float
) -> None:
    ttl = 60.0
    machines = [Machine(dispatcher), Machine(agent, steady=77.0)]
    for place, machine in enumerate(machines):
        machine.told(ahead=registry, late=late * place)
    (task,) = decode_submission(b'{"ttl": 60, "capability": "a.task"}')
    raw = RawArrival("a.task", "1", None, None, None, None, None, {})
    deadline = deadline_of(task, check_arrival(raw, machines[0].time.now()))  # type: ignore[arg-type]
    machines[1].passed = waited
    deadlines = TaskDeadlines(machines[1].time.known, Clock(now=machines[1].wall))
    fate = deadlines.fate(envelope("1", deadline=deadline), deadlines.now())
    if waited < ttl - 0.01:
        assert fate is DeadlineFate.RUNS
    elif waited > ttl + late + 0.01:
        assert fate is DeadlineFate.EXPIRED
