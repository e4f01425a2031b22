"""`maniple_registry.watch.LaneWatch`: when lanes are looked at."""

from typing import Any, cast

from maniple.timings import Watching
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.heartbeat_consumer import HeartbeatConsumer
from maniple_registry.watch import StalledLaneWatch


class Link:
    reconnects = 0
    is_up = True


class Places:
    """A registry's link and handlers, as far as the watch sees them."""

    def __init__(self) -> None:
        self.link, self.fleet = Link(), self
        self.taken: list[Any] = []

    def open_lanes(self) -> set[str]:
        return {"x"}

    def addressed(self, _number: int) -> list[str]:
        return []

    async def look_at(self, _lanes: list[str], _addressed: list[str]) -> dict[str, str]:
        return {"x": "seen"}

    def take(self, views: Any) -> None:
        self.taken.append(views)


async def test_after_its_own_link_was_lost_all_doubts_begin_anew_and_wait() -> None:
    now, places = [100.0], Places()
    hearing = type("H", (), {"link": places.link, "inspect_queues": staticmethod(places.look_at)})
    handlers = type("R", (), {"fleet": places, "on_queue_views": staticmethod(places.take)})
    looking = StalledLaneWatch(
        cast("RegistryHandlers", handlers),
        cast("HeartbeatConsumer", hearing),
        Watching(),
        monotonic=lambda: now[0],
    )
    await looking._look()
    assert places.taken == [{"x": "seen"}]
    places.link.reconnects += 1  # lost and back between two looks
    await looking._look()
    assert places.taken[1:] == [{}]
    now[0] += Watching().settling - 0.1
    places.link.is_up = False
    await looking._look()
    assert len(places.taken) == 2
    places.link.is_up = True
    now[0] += Watching().settling - 0.1
    await looking._look()
    assert places.taken[2:] == [{}]
    now[0] += 0.2
    await looking._look()
    assert places.taken[3:] == [{"x": "seen"}]
