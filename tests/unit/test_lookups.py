"""How long a look into the records goes on, and how far back it goes, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.records import Batch, Record, TaskKey
from maniple.transport import Outgoing
from maniple_dispatcher import lookups
from maniple_dispatcher.lookups import LIMIT, Lookups
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


class Scene:
    """A dispatcher that looks into records."""

    def __init__(self, world: World) -> None:
        self.world, self.records = world, Records(world)
        self.outage = 0.0
        world.patch.setattr(lookups, "monotonic", world.monotonic)
        world.patch.setattr(lookups, "reading", self.records.reading)
        runtime: Any = SimpleNamespace(log=structlog.get_logger())
        publisher: Any = self.records
        self.lookups = Lookups(runtime, publisher, lambda: self.outage)
        self.told: dict[str, float] = {}
        self.process = Process(world, "dispatcher")
        self.process.run(self.lookups.run())

    def ask(self, name: str, **since: float) -> None:
        def then(_: Record | None) -> None:
            self.told[name] = self.world.now

        key = TaskKey("default", name)
        self.process.step(lambda: self.lookups.ask(key, then, **since))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with World(0) as world:
        yield Scene(world)


def test_a_look_goes_on_for_as_long_as_it_gets_anywhere(scene: Scene) -> None:
    scene.records.batches, scene.records.pace = 20, LIMIT / 2
    scene.ask("1")
    scene.world.run(20 * LIMIT)
    assert len(scene.records.looks) == 1
    assert "1" in scene.told


def test_one_to_which_nothing_comes_is_begun_again_from_as_long_ago(scene: Scene) -> None:
    scene.records.pace = 1.5 * LIMIT
    scene.ask("1")
    scene.world.run(2 * LIMIT)
    (first, back), (second, further) = scene.records.looks
    assert second - first >= LIMIT
    assert further - back == pytest.approx(second - first, abs=1.0)
    assert not scene.told


def test_a_mark_that_is_there_no_more_when_its_turn_comes_is_set_again(scene: Scene) -> None:
    scene.records.removes = 1
    scene.ask("1")
    scene.world.run(LIMIT + 5)
    assert (len(scene.records.looks), "1" in scene.told) == (1, True)
