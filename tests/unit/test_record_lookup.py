"""How long a look into the records goes on, and how far back it goes, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.amqp import Outgoing
from maniple_dispatcher.ingress import record_lookup
from maniple_dispatcher.ingress.record_lookup import (
    BACK,
    LIMIT,
    LONGEST_REST,
    MOST_BACK,
    RecordLookup,
)
from maniple_runtime.consul.client import Consul
from maniple_runtime.health import Health
from maniple_runtime.hotpath import HotPath
from maniple_runtime.records import Batch, Record, TaskKey
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from simulated_cluster import metrics
from virtual_time import Process, World


class Records:
    """In place of the stream: it brings `batches` to each look, and then the marks it has."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.batches, self.pace = 0, 1.0  # how many, and seconds between two of them
        self.removes = 0  # marks that retention removes before they are read
        self.marks: list[Outgoing] = []
        self.looks: list[tuple[float, float]] = []
        """When each began, and how many seconds back."""

    async def publish(self, mark: Outgoing) -> None:
        if self.removes:
            self.removes -= 1
        else:
            self.marks.append(mark)

    @asynccontextmanager
    async def reading(
        self, _runtime: object, _name: str, take: Any, *, start: str, decode: Any
    ) -> AsyncIterator[Any]:
        self.looks.append((self.world.now, float(start.removesuffix("s"))))
        work = asyncio.create_task(self._bring(take, decode))
        try:
            yield SimpleNamespace(work=work)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _bring(self, take: Any, decode: Any) -> None:
        number = 0
        while True:
            await asyncio.sleep(self.pace)
            number += 1
            if number > self.batches:
                for mark in self.marks:
                    decode(mark.type, mark.body, number)
            await take(Batch((), number))


class LookingDispatcher:
    """A dispatcher that looks into records."""

    def __init__(self, world: World) -> None:
        self.world, self.records = world, Records(world)
        world.patch.setattr(record_lookup, "reading", self.records.reading)
        runtime = Runtime(
            settings=ServiceSettings(instance="one"),
            health=Health("dispatcher", "one"),
            metrics=metrics(),
            consul=Consul("http://127.0.0.1:1"),
            log=structlog.get_logger(),
            stopping=asyncio.Event(),
            clock=world.clock,
        )
        self.hot = HotPath(runtime, held_bytes=1024**2)
        publisher: Any = self.records
        self.lookups = RecordLookup(runtime, publisher, lambda: self.hot.outage)
        self.told: dict[str, float] = {}
        self.process = Process(world, "dispatcher")
        self.process.run(self.lookups.answer_lookups())

    def ask(self, name: str, since: float = 0.0) -> None:
        def then(_: Record | None) -> None:
            self.told[name] = self.world.now

        key = TaskKey("default", name)
        self.process.step(lambda: self.lookups.ask(key, then, since))

    def cut(self, seconds: float) -> None:
        """Interrupt consuming for so long."""
        self.hot.intake._set_up(up=True)
        self.hot.intake._set_up(up=False)
        self.world.run(seconds)
        self.hot.intake._set_up(up=True)

    def back(self, name: str, **since: float) -> float:
        """Return how far back the look goes for a task that is asked for now."""
        self.ask(name, **since)
        self.world.run(LONGEST_REST + 5.0)
        assert name in self.told
        return self.records.looks[-1][1]


@pytest.fixture
def dispatcher() -> Iterator[LookingDispatcher]:
    with World(0) as world:
        yield LookingDispatcher(world)


def test_a_look_goes_on_for_as_long_as_it_gets_anywhere(dispatcher: LookingDispatcher) -> None:
    dispatcher.records.batches, dispatcher.records.pace = 20, LIMIT / 2
    dispatcher.ask("1")
    dispatcher.world.run(20 * LIMIT)
    assert len(dispatcher.records.looks) == 1
    assert "1" in dispatcher.told


def test_one_to_which_nothing_comes_is_begun_again_from_as_long_ago(
    dispatcher: LookingDispatcher,
) -> None:
    dispatcher.records.pace = 1.5 * LIMIT
    dispatcher.ask("1")
    dispatcher.world.run(2 * LIMIT)
    (first, back), (second, further) = dispatcher.records.looks
    assert second - first >= LIMIT
    assert further - back == pytest.approx(second - first, abs=1.0)
    assert not dispatcher.told


def test_a_mark_that_is_there_no_more_when_its_turn_comes_is_set_again(
    dispatcher: LookingDispatcher,
) -> None:
    dispatcher.records.removes = 1
    dispatcher.ask("1")
    dispatcher.world.run(LIMIT + 5)
    assert (len(dispatcher.records.looks), "1" in dispatcher.told) == (1, True)


def test_after_an_outage_a_look_goes_back_by_as_long_for_a_minute(
    dispatcher: LookingDispatcher,
) -> None:
    assert dispatcher.back("before") == pytest.approx(BACK, abs=1)
    dispatcher.cut(200.0)
    assert dispatcher.back("soon after") == pytest.approx(BACK + 200, abs=1)
    dispatcher.world.run(60.0)
    assert dispatcher.back("long after") == pytest.approx(BACK, abs=1)


def test_a_short_outage_soon_after_a_long_one_hides_it_not(dispatcher: LookingDispatcher) -> None:
    begun = dispatcher.world.now
    dispatcher.cut(200.0)
    dispatcher.world.run(20.0)
    dispatcher.cut(1.0)
    outages = dispatcher.world.now - begun
    assert dispatcher.back("after both") == pytest.approx(BACK + outages, abs=1)


def test_one_look_goes_back_for_as_long_as_is_asked_but_not_for_ever(
    dispatcher: LookingDispatcher,
) -> None:
    asked = {"short": (1.0, BACK), "long": (120.0, 120.0), "endless": (1e9, MOST_BACK)}
    for name, (since, back) in asked.items():
        assert dispatcher.back(name, since=since) == pytest.approx(back, abs=1)
        assert dispatcher.back(f"after {name}") == pytest.approx(BACK, abs=1)


def test_what_has_to_wait_for_the_next_look_is_looked_for_from_before_it_was_asked(
    dispatcher: LookingDispatcher,
) -> None:
    dispatcher.records.batches, dispatcher.records.pace = 20, LIMIT / 2
    dispatcher.ask("1")
    dispatcher.cut(50.0)
    dispatcher.ask("2")
    asked = dispatcher.world.now
    dispatcher.world.run(20 * LIMIT)
    _, (began, back) = dispatcher.records.looks
    assert began - asked > BACK
    assert back == pytest.approx(began - asked + BACK + 50, abs=1)
