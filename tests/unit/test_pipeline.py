"""What the pipeline decides about a task without a decision, with limits that the tests control."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from maniple.clock import Clock
from maniple.errors import BrokerUnavailable
from maniple.messages import Envelope
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.limit import Limit
from maniple_dispatcher.limits.token_bucket import Taken
from maniple_dispatcher.limits.waiting_line import Then
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.pipeline.verdicts import is_committed
from maniple_policies import Resolved, parse_policy
from maniple_runtime.telemetry import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LANE = "text.stats"


def policy(kind: str, spec: dict[str, Any]) -> Any:
    return parse_policy({"kind": kind, "name": "it", "spec": spec})


BULKHEAD = policy("bulkhead", {"max_in_flight": 1000})
BREAKER = policy("circuit_breaker", {"consecutive": 3})


LIMIT = policy("rate_limit", {"limit": 1, "period": 60})
DEGRADING = policy("rate_limit", {"limit": 1, "period": 60, "over": "degrade", "variant": "small"})
FALLBACK = policy(
    "fallback", {"on": ["rate_limited", "overloaded", "circuit_open"], "value": "instead"}
)


class Lanes:
    """Remembers what became of a task."""

    def __init__(self) -> None:
        self.became: list[str] = []
        self.recorded = 0
        self.settled: list[object] = []
        self.source: Any = SimpleNamespace(alive=True, expires=False, settle=self.settled.append)
        self.lost_meanwhile = False
        self.last: Envelope | None = None

    def wait_on(self, envelope: Envelope, *_: object, **__: object) -> None:
        self.last = envelope
        self.became.append("waits")

    def ends(self, *_: object) -> bool:
        return False

    def admitted(self, _envelope: Envelope, _source: object, then: Callable[[], None]) -> None:
        self.recorded += 1
        self.source.alive = not self.lost_meanwhile
        then()

    def mirror(self, *_: object) -> None:
        self.became.append("mirrored")

    def send_task(self, envelope: Envelope, *_: object) -> None:
        self.last = envelope
        self.became.append("sent")

    def hold(self, envelope: Envelope, *_: object) -> None:
        self.last = envelope
        self.became.append("held")

    def end_task(self, *_: object) -> None:
        self.became.append("ended")


class Limits:
    """Answers as it is told to: by limit whether a task passes. Every breaker is in one state."""

    def __init__(
        self,
        *answers: bool | None,
        state: BreakerState = BreakerState.HALF_OPEN,
        since: float = 0.0,
    ) -> None:
        self.owned = self
        self._breaker = state, since
        self._answers = list(answers)
        self.freed: list[str] = []
        self.asked: list[str] = []
        self.seconds = 1.0

    def take_permit(self, limit: Limit, _now: float) -> Taken | None:
        self.asked.append(limit.key)
        passes = self._answers.pop(0)
        granted, undecided = int(bool(passes)), passes is None
        return Taken(granted, self.seconds, self.seconds, undecided=undecided)

    def return_permit(self, limit: Limit, _now: float) -> None:
        self.freed.append(limit.key)

    def becomes(self, state: BreakerState, since: float) -> None:
        self._breaker = state, since

    def breaker(self, _lane: str) -> tuple[BreakerState, float]:
        return self._breaker


def admitted(
    resolved: Resolved,
    limits: Limits,
    before: Redelivery = Redelivery.UNKNOWN,
    lanes: Lanes | None = None,
) -> list[str]:
    """Bring a task to the pipeline; return what became of it."""
    lanes, nothing = lanes or Lanes(), object()
    given: Any = (lanes, limits, nothing, nothing)
    good: Any = nothing
    gate = Pipeline(*given, good=good, metrics=Metrics(), clock=Clock(now=lambda: NOW))
    task = Envelope(
        id="1", capability=LANE, lane=LANE, submitted_at=NOW, deadline=NOW + timedelta(hours=1)
    )
    gate.admit(task, resolved, lanes.source, before)
    return lanes.became


@pytest.mark.parametrize(("answer", "became"), [(True, "sent"), (False, "ended"), (None, "held")])
def test_a_task_waits_when_nobody_says_whether_its_bulkhead_has_room(
    answer: bool | None, became: str
) -> None:
    assert admitted(Resolved.from_policies(BULKHEAD), Limits(answer)) == [became]


@pytest.mark.parametrize(("answer", "became"), [(True, "sent"), (False, "ended"), (None, "held")])
def test_a_task_waits_without_keeping_room_when_nobody_says_whether_it_is_a_probe(
    answer: bool | None, became: str
) -> None:
    limits = Limits(True, answer)
    resolved = Resolved.from_policies(BULKHEAD, BREAKER)
    assert admitted(resolved, limits) == [became]
    assert limits.freed == ([] if answer else ["bulkhead/it"])


@pytest.mark.parametrize(("answer", "became"), [(True, "sent"), (False, "ended"), (None, "held")])
def test_of_a_breaker_that_should_no_longer_be_open_its_owner_is_asked(
    answer: bool | None, became: str
) -> None:
    since = monotonic() - BREAKER.spec.open_for
    limits = Limits(answer, state=BreakerState.OPEN, since=since)
    assert admitted(Resolved.from_policies(BREAKER), limits) == [became]


def test_of_one_that_is_open_nobody_is_asked() -> None:
    limits = Limits(state=BreakerState.OPEN, since=monotonic())
    assert admitted(Resolved.from_policies(BREAKER), limits) == ["ended"]


OF_ALL_KINDS = (
    Resolved.from_policies(LIMIT),
    Resolved.from_policies(LIMIT, FALLBACK),
    Resolved.from_policies(BULKHEAD),
    Resolved.from_policies(BULKHEAD, FALLBACK),
    Resolved.from_policies(BREAKER),
    Resolved.from_policies(BREAKER, FALLBACK),
    Resolved.from_policies(LIMIT, BULKHEAD, BREAKER, FALLBACK),
    Resolved.from_policies(DEGRADING, BULKHEAD),
    Resolved.from_policies(policy("mirror", {"variant": "small", "percent": 100})),
    Resolved(),
)


@pytest.mark.parametrize("before", [Redelivery.SAID, Redelivery.DELIVERED])
@pytest.mark.parametrize("answers", [(False,) * 3, (None,) * 3, (True, False, False), (True,) * 3])
@pytest.mark.parametrize("resolved", OF_ALL_KINDS)
def test_what_may_have_been_admitted_before_passes_or_waits(
    resolved: Resolved, answers: tuple[bool | None, ...], before: Redelivery
) -> None:
    limits, lanes = Limits(*answers), Lanes()
    (became,) = admitted(resolved, limits, before, lanes)
    assert became in {"sent", "held", "waits"}
    assert lanes.last is not None
    assert is_committed(lanes.last)  # nor does it end for want of room
    assert lanes.last.owing <= (became != "sent")


def test_what_a_dispatcher_had_is_not_charged_again() -> None:
    limits = Limits()
    assert admitted(Resolved.from_policies(LIMIT), limits, Redelivery.DELIVERED) == ["sent"]
    assert limits.asked == []


@pytest.mark.parametrize(
    ("answer", "before", "recorded"),
    [
        (True, Redelivery.UNKNOWN, 1),
        (None, Redelivery.UNKNOWN, 1),
        (False, Redelivery.UNKNOWN, 0),  # its end is on record
        (True, Redelivery.SAID, 1),
        (True, Redelivery.DELIVERED, 1),
    ],
)
def test_what_a_limit_does_not_end_is_on_record_before_it_goes(
    answer: bool | None, before: Redelivery, recorded: int
) -> None:
    lanes = Lanes()
    admitted(Resolved.from_policies(LIMIT), Limits(answer), before, lanes)
    assert lanes.recorded == recorded


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_given_to_another_dispatcher_does_not_leave_and_keeps_no_room(when: str) -> None:
    lanes, limits = Lanes(), Limits(True, True)
    lanes.source.alive = when != "before"
    lanes.lost_meanwhile = when == "meanwhile"
    limits.seconds = 0.0
    assert admitted(Resolved.from_policies(LIMIT, BULKHEAD), limits, lanes=lanes) == []
    assert (lanes.recorded, limits.freed) == (int(when == "meanwhile"), ["bulkhead/it"])
    assert [type(one) for one in lanes.settled] == [BrokerUnavailable]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_its_room_is_given_back_once_and_it_stays_away_also_if_its_source_cannot_be_settled(
    when: str,
) -> None:
    lanes, limits = Lanes(), Limits(True, True)
    lanes.source.alive = when != "before"
    lanes.source.settle = Mock(side_effect=[RuntimeError("no end"), None])
    lanes.lost_meanwhile = when == "meanwhile"
    limits.seconds = 0.0
    assert admitted(Resolved.from_policies(LIMIT, BULKHEAD), limits, lanes=lanes) == []
    assert limits.freed == ["bulkhead/it"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_given_to_another_dispatcher_is_settled_also_if_its_room_is_not_given_back(
    when: str,
) -> None:
    lanes = Lanes()
    limits: Any = Limits(True, True)
    lanes.source.alive = when != "before"
    lanes.lost_meanwhile = when == "meanwhile"
    give_back = Mock(side_effect=RuntimeError("no room"))
    limits.seconds, limits.return_permit = 0.0, give_back
    assert admitted(Resolved.from_policies(LIMIT, BULKHEAD), limits, lanes=lanes) == []
    give_back.assert_called_once()
    assert [type(one) for one in lanes.settled] == [BrokerUnavailable]


def test_what_a_sender_says_does_not_buy_a_passage() -> None:
    limits, lanes = Limits(False), Lanes()
    (became,) = admitted(Resolved.from_policies(LIMIT), limits, Redelivery.SAID, lanes)
    assert became in {"held", "waits"}
    assert limits.asked == ["rate_limit/it"]
    assert lanes.last is not None
    assert lanes.last.owing  # when it comes back it is asked for again


def test_a_probe_that_was_granted_before_the_breaker_opened_again_is_none() -> None:
    limits: Any = Limits()

    def ask(_limit: Limit, then: Then, _now: float) -> None:
        limits.becomes(BreakerState.OPEN, monotonic())
        then(True, 0.0)

    limits.take_permit, limits.await_permit = lambda *_: None, ask
    assert admitted(Resolved.from_policies(BREAKER), limits) == ["ended"]
