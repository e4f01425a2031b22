"""No capability takes all slots of an agent: some are left for whoever comes next."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from maniple.errors import ErrorCode, InvalidMessage
from maniple.execution import failed
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor as Kind
from maniple.tasks import definition_of, task
from maniple_agent import diagnostics
from maniple_agent.fair_queue import in_a_row, may_take, most_of
from work_with_fakes import Agent, Delivery, FakeExecutor, a_task, envelope


def of(capability: str, count: int, prefix: str = "") -> Delivery:
    """Return a bundle of so many tasks of a capability."""
    return Delivery(
        *(
            envelope(f"{prefix}{capability}-{number}", capability=capability, lane=capability)
            for number in range(count)
        )
    )


def running(agent: Agent, executor: FakeExecutor | None = None) -> dict[str, int]:
    """Count what runs by capability."""
    names = [job.envelope.capability for job in (executor or agent.executor).jobs]
    return {name: names.count(name) for name in sorted(set(names))}


async def test_a_flood_of_one_capability_leaves_slots_for_another() -> None:
    agent = Agent(capacity=256)
    await agent.take(of("a.task", 1000))
    assert running(agent) == {"a.task": 224}
    await agent.take(of("a.once", 1))
    assert running(agent) == {"a.once": 1, "a.task": 224}


async def test_a_second_flood_leaves_slots_for_a_third() -> None:
    agent = Agent(capacity=16)
    for capability in ("a.task", "a.once", "an.exclusive"):
        await agent.take(of(capability, 100))
        assert agent.executor.free or capability == "an.exclusive"
    assert running(agent) == {"a.once": 1, "a.task": 14, "an.exclusive": 1}


async def test_handlers_that_were_given_up_and_go_on_count_for_their_capability() -> None:
    agent = Agent(capacity=16)
    await agent.take(of("a.task", 100))
    given_up = list(agent.executor.jobs)
    for job in given_up:  # as threads whose handlers do not return after their timeout
        agent.executor.jobs.remove(job)
        agent.executor.stuck.append("a.task")
        agent.work.outcome(job, failed(ErrorCode.TIMEOUT, "too long"), 1.0)
    await agent.settle()
    assert (len(given_up), running(agent), agent.executor.free) == (14, {}, 2)
    await agent.take(of("a.once", 1))
    assert running(agent) == {"a.once": 1}
    agent.executor.stuck.clear()
    agent.work.slots_free()
    await agent.settle()
    assert running(agent) == {"a.once": 1, "a.task": 14}


async def test_what_two_want_evens_out_as_their_tasks_end() -> None:
    agent = Agent(capacity=15)
    await agent.take(of("a.task", 400))
    await agent.take(of("a.once", 400))
    for _ in range(300):
        await agent.finish(agent.executor.ids[0])
    counts = running(agent)
    assert abs(counts["a.task"] - counts["a.once"]) <= 1
    assert agent.executor.free == 1


async def test_capabilities_take_turns_however_much_of_one_waits() -> None:
    agent = Agent(capacity=2)  # too few to leave any
    await agent.take(of("a.task", 50))
    await agent.take(of("a.once", 2))
    for _ in range(4):
        await agent.finish(agent.executor.ids[0])
    assert not [job for job in agent.work.waiting if job.envelope.capability == "a.once"]


@task("alone.in_threads")
def alone(payload: Any) -> Any:
    return payload


async def test_a_capability_that_shares_its_executor_with_none_has_all_slots() -> None:
    registry, threads = TaskRegistry([alone]), FakeExecutor(16)
    agent = Agent(registry=registry, executors={Kind.THREAD: threads})
    assert registry.get("alone.in_threads")
    await agent.take(of("alone.in_threads", 100))
    assert running(agent, threads) == {"alone.in_threads": 16}


async def test_of_what_is_bounded_no_more_run_and_the_others_do_not_wait_for_it() -> None:
    agent = Agent(capacity=256, at_once={"a.task": 16})
    await agent.take(of("a.task", 100))
    await agent.take(of("a.once", 100))
    assert running(agent) == {"a.once": 100, "a.task": 16}
    await agent.finish("a.task-0")
    assert running(agent)["a.task"] == 16
    assert agent.work.waiting.usable(definition_of(a_task), 256) == 16


async def test_large_payloads_of_one_capability_leave_room_for_others() -> None:
    agent = Agent(capacity=256, most_bytes=64_000)
    large = Raw(b'"%s"' % (b"x" * 1000))
    await agent.take(Delivery(*(envelope(f"large-{n}", payload=large) for n in range(100))))
    begun = len(agent.executor.jobs)
    assert begun * 1002 < 0.9 * 64_000
    await agent.take(of("a.once", 50))
    assert running(agent) == {"a.once": 50, "a.task": begun}


async def test_what_has_no_room_goes_to_others_ever_more_slowly_and_its_neighbours_do_not() -> None:
    clock = SimpleNamespace(now=0.0)
    agent = Agent(capacity=256, at_once={"a.task": 1, "a.once": 1}, monotonic=lambda: clock.now)
    await agent.take(of("a.task", 2))
    clock.now = 1.1
    agent.work.dissolve()
    await agent.settle()
    assert [bundle[0].id for _, bundle in agent.moved()] == ["a.task-1"]
    await agent.take(of("a.task", 1, "again-"))
    await agent.take(of("a.once", 2))
    clock.now = 2.5  # it may wait for two seconds now; that of the other for one
    agent.work.dissolve()
    await agent.settle()
    assert [bundle[0].id for _, bundle in agent.moved()] == ["a.task-1", "a.once-1"]


@given(st.integers(0, 300), st.integers(1, 6))
def test_floods_one_after_the_other_leave_room_while_there_is_any(
    capacity: int, floods: int
) -> None:
    free, got = capacity, []
    for _ in range(floods):
        own, row = 0, in_a_row(0, free, capacity)
        while may_take(own, free, capacity):
            own, free = own + 1, free - 1
            assert in_a_row(own, free, capacity) == row - own
        assert own == row
        got.append(own)
    assert sum(got) + free == capacity
    assert got[0] == most_of(capacity)
    assert got == sorted(got, reverse=True)
    assert free >= 1 or got[-1] <= 1 or capacity < 4


@pytest.mark.parametrize("seconds", [60.1, 120, 1e300])
async def test_a_diagnostic_sleep_is_short(seconds: float) -> None:
    with pytest.raises(InvalidMessage, match="at most 60 s") as refused:
        await diagnostics.sleep({"seconds": seconds})
    assert refused.value.code is ErrorCode.INVALID_TASK


async def test_a_share_that_empties_leaves_its_turn() -> None:
    agent = Agent(capacity=2)
    await agent.take(of("a.task", 4))
    agent.work.waiting.take_all()
    await agent.finish("a.task-0")
    await agent.take(of("a.once", 1))
    await agent.take(of("a.task", 1, "again-"))
    assert running(agent) == {"a.once": 1, "a.task": 1}
