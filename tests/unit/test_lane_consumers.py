"""Which queues an agent reads, and how much of each it takes."""

from types import SimpleNamespace
from typing import Any

from maniple.amqp import Consumer
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor, task
from maniple.topology import Queue
from maniple_agent.fair_queue import most_of
from maniple_agent.lane_consumers import LaneConsumers
from maniple_agent.slots import Slots
from maniple_runtime.health import Health
from work_with_fakes import Agent, Delivery, FakeExecutor, envelope

CAPACITIES = dict.fromkeys(Executor, 4)


@task("a.plain")
async def plain(payload: Any) -> Any:
    return payload


@task("an.affine", affinity=True)
async def affine(payload: Any) -> Any:
    return payload


def consumers(
    *functions: Any, hot: "Hot | None" = None, variants: tuple[str, ...] = ()
) -> LaneConsumers:
    on: Any = hot or Hot()
    registry = TaskRegistry(functions)
    return LaneConsumers("agent-1", registry, variants, CAPACITIES, hot=on, work=Agent().work)


def queues(*functions: Any, variants: tuple[str, ...] = ()) -> list[str]:
    hot = Hot()
    consumers(*functions, hot=hot, variants=variants)
    return [consumer.queue for consumer in hot.consumers.values()]


def test_an_agent_reads_the_lanes_of_its_capabilities_and_variants_with_their_suspects() -> None:
    assert queues(plain, variants=("eu",)) == [
        "maniple.lane.a.plain",
        "maniple.lane.a.plain.suspect",
        "maniple.lane.a.plain@eu",
        "maniple.lane.a.plain@eu.suspect",
    ]


def test_only_a_capability_with_affinity_gives_an_agent_a_queue_of_its_own() -> None:
    assert "maniple.agent.agent-1" not in queues(plain)
    assert queues(plain, affine).count("maniple.agent.agent-1") == 1


def test_the_own_queue_is_no_lane() -> None:
    assert consumers(affine).names == ("an.affine",)


@task("a.thread")
def in_thread(payload: Any) -> Any:
    return payload


class Hot:
    """A hot path without a broker."""

    def __init__(self) -> None:
        self.consumers: dict[str, Consumer] = {}
        self.intake = SimpleNamespace(is_up=True)

    def consume(self, queue: Queue, handle: Any, prefetch: int, **more: Any) -> Consumer:
        made = Consumer(queue.name, handle, prefetch=prefetch, **more)
        made._in_force = prefetch  # as once the broker has answered
        self.consumers[queue.name.removeprefix("maniple.")] = made
        return made


class Taking:
    """An agent that consumes the lanes of some handlers, with so many slots of each kind."""

    def __init__(self, *functions: Any, slots: int = 4) -> None:
        self.executors, self.hot = {kind: FakeExecutor(slots) for kind in Executor}, Hot()
        self.agent = Agent(executors=dict(self.executors))
        registry = TaskRegistry(functions)
        hot: Any = self.hot
        self.lanes = LaneConsumers(
            "agent-1",
            registry,
            (),
            dict.fromkeys(Executor, slots),
            hot=hot,
            work=self.agent.work,
        )

    def fill(self) -> None:
        """Deliver to every consumer as much as its prefetch allows."""
        delivery: Any = None
        for consumer in self.hot.consumers.values():
            consumer._deliveries.unsettled = dict.fromkeys(range(consumer.prefetch), delivery)

    def adapted(self) -> dict[str, int]:
        """Adapt; return the prefetch of each queue, 0 if it is paused."""
        self.lanes.adapt()
        return {
            queue: 0 if consumer._paused else consumer.prefetch
            for queue, consumer in self.hot.consumers.items()
        }


async def test_suspects_are_taken_one_at_a_time_and_as_suspects() -> None:
    taking = Taking(plain, slots=200)
    assert {queue: consumer.prefetch for queue, consumer in taking.hot.consumers.items()} == {
        "lane.a.plain": 2,
        "lane.a.plain.suspect": 1,
    }
    taken: list[bool] = []
    for queue in ("lane.a.plain", "lane.a.plain.suspect"):
        taking = Taking(plain)
        delivery: Any = Delivery(envelope("1", capability="a.task"))
        taking.hot.consumers[queue]._deliveries.hand(delivery)
        taken += [job.suspect for job in taking.agent.work.waiting]
    assert taken == [False, True]


async def test_a_lost_consumer_says_so_at_once() -> None:
    taking = Taking(plain)
    delivery = Delivery(envelope("1"))
    taking.executors[Executor.ASYNC].capacity = 0
    await taking.agent.take(delivery)
    assert len(list(taking.agent.work.waiting)) == 1
    delivery.alive = False
    taking.hot.consumers["lane.a.plain"].lost()
    assert list(taking.agent.work.waiting) == []


async def test_from_lanes_whose_slots_are_all_stuck_nothing_is_taken() -> None:
    taking = Taking(plain, in_thread, affine, slots=8)
    for lane in ("a.plain", "a.thread", "an.affine"):
        taking.agent.work.measures[lane].bundled(1)
    taking.fill()
    before = taking.adapted()
    assert set(before.values()) == {8, 7, 1}  # of those for several capabilities one slot is left
    taking.executors[Executor.THREAD].stuck = ["a.thread"] * 4
    assert taking.adapted() == before | {"lane.a.thread": 4}
    taking.executors[Executor.THREAD].stuck *= 2
    assert taking.adapted() == before | {"lane.a.thread": 0, "lane.a.thread.suspect": 0}
    assert taking.lanes.hungry == ("a.plain", "an.affine")  # since what they may hold has grown
    taking.executors[Executor.THREAD].stuck = []
    assert taking.adapted() == before
    taking.executors[Executor.ASYNC].stuck = ["a.plain"] * 8
    assert taking.adapted() == dict.fromkeys(before, 0) | {
        "lane.a.thread": 8,
        "lane.a.thread.suspect": 1,
    }


async def test_a_lane_holds_more_once_it_has_used_up_what_it_may_hold() -> None:
    taking = Taking(plain, slots=100)
    taking.agent.work.measures["a.plain"].bundled(1)
    assert (taking.adapted())["lane.a.plain"] == 1
    taking.fill()
    assert (taking.adapted())["lane.a.plain"] == most_of(100)
    taking.agent.work.measures["a.plain"].bundle = 10.0
    assert (taking.adapted())["lane.a.plain"] == 9


async def test_a_lane_is_not_taken_from_again_while_the_agent_takes_nothing() -> None:
    taking = Taking(in_thread)
    taking.executors[Executor.THREAD].stuck = ["a.thread"] * 4
    taking.adapted()
    taking.executors[Executor.THREAD].stuck = []
    taking.agent.fenced = True
    assert set((taking.adapted()).values()) == {0}
    taking.agent.fenced = False
    assert set((taking.adapted()).values()) == {1}


def test_the_health_names_what_keeps_slots() -> None:
    executor, health = FakeExecutor(4), Health("agent", "a1")
    slots = Slots({Executor.THREAD: executor})
    executor.stuck = ["b.task", "a.task", "b.task"]
    slots.show_stuck(health)
    assert health.snapshot()["components"]["slots.thread"] == {
        "ok": False,
        "detail": "3 of 4 slots are kept: a.task, b.task",
        "required": False,
    }
    executor.stuck = []
    slots.show_stuck(health)
    assert health.status == "ok"


def test_the_queue_is_to_blame_for_what_is_not_consumed_only_while_the_link_stands() -> None:
    taking = Taking(plain, affine)

    def told() -> tuple[list[str], int]:
        return list(taking.lanes.hungry), len(taking.lanes.unconsumed)

    for consumer in taking.hot.consumers.values():
        consumer.lost()
    assert told() == ([], 5)  # two lanes, their suspects, its own queue
    taking.hot.intake.is_up = False
    assert told() == (["a.plain", "an.affine"], 0)
    for consumer in taking.hot.consumers.values():
        consumer.want(paused=True)
    assert told() == ([], 0)
