"""How an agent leaves when the broker does not answer: never later than it may."""

from types import SimpleNamespace
from typing import Any

import pytest

from maniple.clock import Clock
from maniple_agent import wiring
from maniple_runtime.control.messages import AgentPhase


class Leaving:
    """The parts of an agent whose way out takes so long, in seconds of a clock of its own."""

    def __init__(self, *, seconds: float, pause: float, over: float) -> None:
        self.now = 0.0
        self.draining = False
        self.goodbyes: list[float] = []
        self.phases: list[AgentPhase] = []
        self.announced: list[AgentPhase] = []
        self._pause, self._over = pause, over
        self.parts: Any = SimpleNamespace(
            ending=SimpleNamespace(seconds=seconds),
            hot=SimpleNamespace(pause=self._takes),
            work=SimpleNamespace(drain_jobs=self._drain, begin_draining=self._begin),
            confirmation=SimpleNamespace(fenced=lambda _: False),
            time=SimpleNamespace(clock=Clock(monotonic=lambda: self.now)),
        )
        self.heartbeats: Any = SimpleNamespace(
            enter_phase=self.phases.append,
            announce=lambda: self.announced.extend(self.phases[-1:]),
            send_heartbeat=self._send,
            patience=2.5,
        )

    def _begin(self) -> None:
        self.draining = True

    async def _takes(self, limit: float) -> None:
        self.was_draining = self.draining
        self.now += min(self._pause, limit)

    async def _drain(self, seconds: float) -> None:
        self.now += seconds + self._over

    async def _send(self, wait: float) -> None:
        self.goodbyes.append(round(wait, 3))
        self.now += wait


@pytest.mark.parametrize(
    ("seconds", "pause", "over", "goodbyes"),
    [
        (20.0, 0.0, 0.0, [2.5]),
        (20.0, 60.0, 0.0, [2.5]),
        (20.0, 60.0, 2.5, [0.5]),
        (0.0, 60.0, 0.0, [2.0]),
        (0.0, 60.0, 2.5, []),
    ],
)
async def test_a_goodbye_has_what_is_left(
    seconds: float,
    pause: float,
    over: float,
    goodbyes: list[float],
) -> None:
    leaving = Leaving(seconds=seconds, pause=pause, over=over)
    await wiring._leave(leaving.parts, leaving.heartbeats)
    assert leaving.was_draining  # or a fence that opens meanwhile would let something in
    assert leaving.goodbyes == goodbyes
    assert leaving.announced[:1] == [AgentPhase.DRAINING]
    assert leaving.phases == [AgentPhase.DRAINING, AgentPhase.LEAVING]
    assert leaving.now <= seconds + 3.5
