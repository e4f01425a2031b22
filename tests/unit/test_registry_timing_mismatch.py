"""What a registry says of agents that keep other times than it relies on."""

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.timings import Bounds, Timings
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.timing_mismatch import Risk, misfit
from maniple_registry.timing_watch import COMPONENT, TimingWatch
from maniple_runtime.control.agent_timings import AgentTimings
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription
from maniple_runtime.health import Health
from maniple_runtime.metric_names import AGENTS_MISTIMED
from maniple_runtime.telemetry import Metrics
from registry_values import NOW, at, beat

HALF = Timings().scaled(0.5)


def described(agent: str, timings: Timings | None) -> AgentDescription:
    fields = {"agent": agent, "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW}
    told = AgentTimings.of_timings(timings) if timings else None
    return AgentDescription.model_validate(fields | {"timings": told})


class Registry:
    """A fleet that hears agents, and what is shown of those that do not fit."""

    def __init__(self, bounds: Bounds) -> None:
        self.fleet, self.metrics = Agents(bounds), Metrics()
        self.health = Health("registry", "r1")
        runtime: Any = SimpleNamespace(
            health=self.health, metrics=self.metrics, log=structlog.get_logger()
        )
        self.watch = TimingWatch(self.fleet, runtime)

    def hear(self, agent: str, timings: Timings | None, incarnation: str = "1") -> None:
        description = described(agent, timings)
        changes: dict[str, Any] = {
            "agent": agent,
            "incarnation": incarnation,
            "digest": description.digest,
        }
        self.fleet.record_heartbeat(beat(description=description, **changes), at(0))

    def shown(self) -> tuple[bool, str, dict[Risk, float | None]]:
        self.watch.show_mismatches()
        component = self.health.snapshot()["components"][COMPONENT]
        assert not component["required"]
        value = self.metrics.registry.get_sample_value
        counts = {risk: value(AGENTS_MISTIMED.name, {"risk": str(risk)}) for risk in Risk}
        return component["ok"], component["detail"], counts


@pytest.mark.parametrize(
    ("ours", "theirs", "risk"),
    [
        (Timings(), Timings(), None),
        (Timings(), None, None),
        (Timings(), HALF, None),
        (HALF, Timings(), Risk.RUNS_TWICE),
        (HALF, None, Risk.RUNS_TWICE),
        (Timings().bounded(failed=12.0), Timings(), None),
        (HALF.bounded(failed=20.0), Timings(), Risk.SUSPECTED),
    ],
)
def test_an_agent_fits_that_stops_in_time_and_speaks_often_enough(
    ours: Timings, theirs: Timings | None, risk: Risk | None
) -> None:
    told = AgentTimings.of_timings(theirs) if theirs else None
    assert misfit(told, ours.bounds) is risk


def test_who_does_not_fit_is_told_in_log_health_and_metric_until_it_does() -> None:
    registry = Registry(HALF.bounds)
    registry.hear("good", HALF)
    assert registry.shown() == (True, "", {Risk.RUNS_TWICE: 0, Risk.SUSPECTED: 0})
    registry.hear("slow", Timings())
    with structlog.testing.capture_logs() as lines:
        ok, detail, counts = registry.shown()
        registry.watch.show_mismatches()
    assert (ok, counts) == (False, {Risk.RUNS_TWICE: 1, Risk.SUSPECTED: 0})
    assert "slow has stopped exclusive tasks after 8.25 s" in detail
    assert "failed here after 4.5 s" in detail
    assert [(line["log_level"], line["agent"]) for line in lines] == [("warning", "slow")]
    registry.hear("slow", HALF, incarnation="2")
    assert registry.shown()[0]


def test_of_many_that_do_not_fit_some_are_named() -> None:
    registry = Registry(HALF.bounds)
    for number in range(50):
        registry.hear(f"a{number:02}", None)
    ok, detail, counts = registry.shown()
    assert (ok, counts[Risk.RUNS_TWICE]) == (False, 50)
    assert detail.endswith("; and 47 more")
    assert len(detail) < 1000


def test_who_has_failed_is_no_misfit_any_more() -> None:
    registry = Registry(HALF.bounds)
    registry.hear("slow", Timings())
    for now in (3.0, 5.0):
        registry.fleet.judge(registry.fleet.overdue(at(now)), at(now))
    found = registry.fleet.get_record("slow")
    assert found is not None
    assert (found.state, found.incarnation) == ("failed", Incarnation("1"))
    assert registry.shown()[0]
