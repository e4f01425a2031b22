"""What a dispatcher makes of a registry's answer in which not everything can be read."""

from types import SimpleNamespace
from typing import Any

import structlog

from maniple.clock import SYSTEM_CLOCK
from maniple.timings import Timings
from maniple_dispatcher.affinity.agents import AgentDirectory
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines


async def test_an_agent_that_cannot_be_read_costs_no_other_and_is_no_end() -> None:
    good = {
        "id": "agent-1",
        "incarnation": "1",
        "state": "active",
        "lanes": ["a.task"],
        "affinity": ["a.task"],
    }

    told: list[Any] = [{"id": ["odd"]}, good]

    async def request(*_: Any, **__: Any) -> dict[str, Any]:
        return {"agents": told}

    async def refresh(_: Any) -> tuple[str, ...]:
        return ()

    assignment = Assignment()
    runtime: Any = SimpleNamespace(
        log=structlog.get_logger(),
        settings=SimpleNamespace(timings=Timings()),
        clock=SYSTEM_CLOCK,
    )
    plane: Any = SimpleNamespace(request=request)
    moves: Any = SimpleNamespace(begin_draining=lambda _: None)
    markers: Any = SimpleNamespace(refresh=refresh)
    deadlines = LaneDeadlines(Timings().expiry, lambda _: True, 0.0)
    agents = AgentDirectory(runtime, plane, assignment, moves, markers, deadlines=deadlines)
    assert not await agents._ask()  # so it is asked again, and nobody is taken for missing
    assert assignment.reads("agent-1")
    assert deadlines.knows("no.such")  # for all that is known
    del told[0]
    assert await agents._ask()
    assert deadlines.knows("a.task")
    assert not deadlines.knows("no.such")
