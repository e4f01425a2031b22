"""A task over which the pipeline fails costs neither itself nor those who are told after it."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from maniple.clock import Clock
from maniple.errors import ManipleError
from maniple.messages import Envelope, Waiting
from maniple.topology import DELAY, DELAY_TIERS
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.messages import DispatcherReport, Grant
from maniple_dispatcher.limits.token_bucket import Taken
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_policies import Resolved, parse_policy
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.telemetry import Metrics
from pipeline_with_fakes import PipelineWithFakes
from work_with_fakes import NOW, envelope

LIMIT: Any = parse_policy({"kind": "rate_limit", "name": "it", "spec": {"limit": 100}})
LIMITED = Resolved.from_policies(LIMIT)
KEY = "rate_limit/it"
SOON, LATER = 0.01, 1.0


class Source:
    """A source message, and with which errors it was settled."""

    expires = False

    def __init__(self) -> None:
        self.errors: list[ManipleError | None] = []
        self.alive = True

    def settle(self, error: ManipleError | None = None) -> None:
        self.errors.append(error)


class Lanes:
    """Remembers what became of tasks; fails over those in `bad`, and over all else in `worse`."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.worse: set[str] = set()
        self.sent: list[str] = []
        self.held: list[Envelope] = []

    def ends(self, *_: object) -> bool:
        return False

    def admitted(self, _envelope: Envelope, _source: object, then: Callable[[], None]) -> None:
        then()

    def send_task(self, envelope: Envelope, *_: object) -> None:
        if envelope.id in self.bad | self.worse:
            raise OverflowError(envelope.id)
        self.sent.append(envelope.id)

    def hold(self, envelope: Envelope, _source: object, _why: Waiting) -> None:
        if envelope.id in self.worse:
            raise OverflowError(envelope.id)
        self.held.append(envelope)


class AskingDispatcher:
    """A dispatcher whose limit another owns."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.coordinator = Coordinator("me", LeaseOwner(lambda _: None), 0.0)
        self.other = self._owner()
        nothing: Any = None
        policies: Any = None
        lanes: Any = self.lanes
        self.gate = Pipeline(
            lanes,
            self.coordinator,
            policies,
            nothing,
            good=nothing,
            metrics=Metrics(),
            clock=Clock(now=lambda: NOW),
        )
        self.sources: dict[str, Source] = {}

    def _owner(self) -> str:
        self._is_there("me")
        number = 0
        while self.coordinator.peers.owner(KEY) == "me":
            number += 1
            self._is_there(f"other-{number}")
        return self.coordinator.peers.owner(KEY) or ""

    def _is_there(self, name: str) -> None:
        self.coordinator.on_report(DispatcherReport(dispatcher=name, ready=True), 0.0)

    def come(self, *names: str) -> None:
        for name in names:
            source: Any = Source()
            self.sources[name] = source
            self.gate.admit(envelope(name), LIMITED, source)

    def answer(self) -> None:
        """Have the owner give all that was asked for."""
        (ask,) = self.coordinator.make_report(SOON).asks
        grant = Grant(key=KEY, to="me", number=ask.number, granted=ask.want)
        report = DispatcherReport(dispatcher=self.other, ready=True, grants=(grant,))
        self.coordinator.on_report(report, SOON)

    def dies(self) -> None:
        """Remove the owner, so that this dispatcher answers those who asked."""
        self.coordinator.on_report(DispatcherReport(dispatcher=self.other, leaving=True), SOON)
        self.coordinator.advance_time(LATER)


@pytest.mark.parametrize("told", [AskingDispatcher.answer, AskingDispatcher.dies])
def test_whatever_a_task_fails_over_those_after_it_are_told_and_it_waits(told: Any) -> None:
    dispatcher = AskingDispatcher()
    dispatcher.lanes.bad = {"b"}
    dispatcher.come("a", "b", "c")
    told(dispatcher)
    assert dispatcher.lanes.sent == ["a", "c"]
    assert [one.id for one in dispatcher.lanes.held] == ["b"]


def test_one_that_cannot_even_wait_is_refused_by_its_source() -> None:
    dispatcher = AskingDispatcher()
    dispatcher.lanes.worse = {"a"}
    dispatcher.come("a", "b")
    dispatcher.answer()
    assert (dispatcher.lanes.sent, dispatcher.lanes.held) == (["b"], [])
    (error,) = dispatcher.sources["a"].errors
    assert type(error) is ManipleError


class Waits(Lanes):
    """Remembers until when tasks wait."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Any] = []

    def wait_on(self, envelope: Envelope, *_: object, **__: object) -> None:
        self.due.append(envelope.not_before)


@pytest.mark.parametrize("seconds", [3.6e12, 1e300])
def test_a_task_waits_for_its_turn_however_far_away_that_is(seconds: float) -> None:
    lanes: Any = Waits()
    nothing: Any = None
    owned = LeaseOwner(lambda _: None)
    coordinator: Any = SimpleNamespace(owned=owned, take_permit=lambda *_: Taken(1, first=seconds))
    gate = Pipeline(
        lanes,
        coordinator,
        nothing,
        nothing,
        good=nothing,
        metrics=Metrics(),
        clock=Clock(now=lambda: NOW),
    )
    for before in (Redelivery.UNKNOWN, Redelivery.SAID):
        source: Any = Source()
        gate.admit(envelope("1"), LIMITED, source, before)
    assert (lanes.sent, lanes.held, len(lanes.due)) == ([], [], 2)
    for due in lanes.due:
        assert NOW + timedelta(seconds=DELAY_TIERS[0]) <= due <= NOW + timedelta(days=7)


class Unsteady(Assignment):
    """Fails over a task for some time."""

    fails = True

    def choose(self, envelope: Envelope) -> str | None:
        if self.fails:
            raise OverflowError(envelope.id)
        return super().choose(envelope)


async def test_room_of_a_task_over_which_the_pipeline_fails_is_given_back_and_not_on_its_way() -> (
    None
):
    coordinator = Coordinator("me", LeaseOwner(lambda _: None), 0.0)
    coordinator.on_report(DispatcherReport(dispatcher="me", ready=True), -LATER)
    rooms = BulkheadCounts(coordinator, monotonic)
    dispatcher = PipelineWithFakes([("bulkhead", {"max_in_flight": 3})], coordinator, counts=rooms)
    dispatcher.lanes._assignment = Unsteady()
    dispatcher.bring(envelope("1", affinity="k"))
    await dispatcher.drain()
    assert [one.id for one in dispatcher.tasks(DELAY.name)] == ["1"]
    assert coordinator.owned.bulkheads.in_flight("bulkhead/p") == 0
    assert (coordinator.unqueued.lasting(), coordinator.unqueued.lasting()) == ({}, {})


async def test_what_was_sent_to_a_variant_and_failed_asks_again_for_its_own_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned = LeaseOwner(lambda _: None)
    fleet: Any = SimpleNamespace(owned=owned, take_permit=lambda *_: Taken(0, again=1.0))
    spec = {"limit": 1, "over": "degrade", "variant": "small"}
    scene = PipelineWithFakes([("rate_limit", spec)], fleet)
    monkeypatch.setattr(scene.lanes, "send_task", Mock(side_effect=RuntimeError("no way")))
    own = envelope("1").lane
    await scene.bring_back(envelope("1", owing=True, waits=1))
    assert [(one.lane, one.owing) for one in scene.tasks(DELAY.name)] == [(own, True)]


async def test_room_is_given_back_once_though_what_comes_of_a_refusal_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = CircuitBreakerSpec(consecutive=1, open_for=60)
    coordinator = Coordinator("me", LeaseOwner(lambda _: spec), 0.0)
    coordinator.on_report(DispatcherReport(dispatcher="me", ready=True), -LATER)
    breaker = ("circuit_breaker", spec.model_dump())
    dispatcher = PipelineWithFakes([("bulkhead", {"max_in_flight": 3}), breaker], coordinator)
    dispatcher.bring(envelope("1"))
    dispatcher.bring(envelope("2"))
    assert coordinator.owned.bulkheads.in_flight("bulkhead/p") == 2
    coordinator.owned.restore(envelope("3").lane, BreakerState.OPEN, 1, monotonic())
    monkeypatch.setattr(dispatcher.lanes, "end_task", Mock(side_effect=RuntimeError("no end")))
    dispatcher.bring(envelope("3"))
    await dispatcher.drain()
    assert [one.id for one in dispatcher.tasks(DELAY.name)] == ["3"]
    assert coordinator.owned.bulkheads.in_flight("bulkhead/p") == 2
