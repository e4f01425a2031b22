"""The diagrams of a breaker and of a fence draw what these do, driven with small inputs."""

from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from types import SimpleNamespace
from typing import Any

from documents import arrows
from maniple.clock import Clock
from maniple.timings import Timings
from maniple_agent.domain.confirmation import Confirmation
from maniple_agent.fencing import Fence
from maniple_dispatcher.limits.breaker import Breaker, BreakerState, Ends
from maniple_dispatcher.limits.messages import BreakerNews
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from paths import ROOT

STATES = ROOT / "docs" / "states"
Step = tuple[str, str, str]
"""From, to, and the method that did it."""


def drawn(page: str) -> tuple[str, set[Step]]:
    """Return where a diagram begins, and its arrows, each with the method that it names."""
    steps = {(a, b, why.partition(",")[0]) for a, b, why in arrows(STATES / page)}
    (start,) = [after for before, after, _ in steps if before == "[*]"]
    return start, {step for step in steps if step[0] != "[*]"}


# --- a breaker ---------------------------------------------------------------------------

SPECS = [
    CircuitBreakerSpec(consecutive=1, open_for=10.0),
    CircuitBreakerSpec(consecutive=2, open_for=10.0, probes=2),
    CircuitBreakerSpec(ratio=0.5, minimum=2, open_for=10.0),
]
Input = tuple[str, Callable[[Breaker, CircuitBreakerSpec, float], object]]
INPUTS: list[Input] = [
    ("record_outcomes", lambda b, spec, now: b.record_outcomes(Ends(succeeded=1), spec, now)),
    ("record_outcomes", lambda b, spec, now: b.record_outcomes(Ends(0, 1, 1), spec, now)),
    ("record_outcomes", lambda b, spec, now: b.record_outcomes(Ends(2, 1, 1), spec, now)),
    ("advance_time", lambda b, spec, now: b.advance_time(spec, now)),
    ("probe", lambda b, spec, now: b.probe(1, spec, now)),
]


def steps_of_a_breaker() -> Iterator[Step]:
    """Drive breakers with all short sequences of inputs, some seconds apart."""
    for spec, apart in product(SPECS, (1.0, 10.0)):
        for inputs in product(INPUTS, repeat=5):
            breaker = Breaker()
            for number, (method, act) in enumerate(inputs, 1):
                before, epoch = breaker.state, breaker.epoch
                act(breaker, spec, number * apart)
                assert breaker.epoch == epoch + (breaker.state is not before)
                if breaker.state is not before:
                    yield before.value, breaker.state.value, method


def test_the_page_of_a_breaker_draws_what_its_owner_does_with_it() -> None:
    start, steps = drawn("breaker.md")
    assert start == Breaker().state
    assert steps == set(steps_of_a_breaker())
    assert {state for before, after, _ in steps for state in (before, after)} == set(BreakerState)


def test_a_breaker_that_is_followed_goes_from_any_state_to_any_other_by_a_higher_epoch() -> None:
    for before, after in permutations(BreakerState, 2):
        breaker = Breaker(state=before, epoch=3)
        assert not breaker.follow_owner(BreakerNews(lane="a", state=after, epoch=2), SPECS[0], 0.0)
        assert breaker.state is before
        assert breaker.follow_owner(BreakerNews(lane="a", state=after, epoch=4), SPECS[0], 0.0)
        assert breaker.state is after


# --- a fence -----------------------------------------------------------------------------

TIMES = Timings()
LATER = ("fenced", "exclusive_over", "given_up")
"""Methods of `Confirmation`, each of which holds what those before it hold."""
LOOKS = round((TIMES.bounds.failed + TIMES.fencing.fenced) / TIMES.fencing.look)


def nothing(*_: object, **__: object) -> None:
    """Do nothing, whatever is asked."""


class Fenced:
    """A fence around an agent of which a test sees what it is told to stop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = 0
        self.confirmation = Confirmation(0.0, TIMES)
        work: Any = SimpleNamespace(
            running=[],
            draining=False,
            slots_free=nothing,
            stop_exclusive=self._stop_exclusive,
            resume=nothing,
        )
        runtime: Any = SimpleNamespace(
            spawn=nothing,
            ttl_heartbeat=SimpleNamespace(beat=nothing),
            health=SimpleNamespace(set=nothing),
            clock=Clock(monotonic=lambda: self.now),
        )
        link: Any = SimpleNamespace(
            blocked=False,
            up=True,
            connected=True,
            reconnect=nothing,
            resume=nothing,
            stop_consuming=nothing,
        )
        agent_publisher: Any = SimpleNamespace(kept_bytes=0)
        self.fence = Fence(
            runtime,
            self.confirmation,
            work,
            agent_publisher=agent_publisher,
            hot=link,
            plane=link,
        )

    def _stop_exclusive(self) -> None:
        self.stopped += 1

    @property
    def state(self) -> str:
        """Where it is by the clock; the fence must have acted on that."""
        holds = [bool(getattr(self.confirmation, name)(self.now)) for name in LATER]
        assert holds == sorted(holds, reverse=True)
        return ("working", *LATER)[sum(holds)]

    def enforce(self, seconds: float = TIMES.fencing.look) -> Step:
        """Judge the fence after so many seconds."""
        before, stopped = self.state, self.stopped
        self.now += seconds
        self.fence.enforce()
        assert self.fence.fenced == (self.state != "working")
        assert (self.stopped > stopped) == (self.state in LATER[1:])
        return before, self.state, "enforce"

    def confirm(self, age: float) -> Step:
        """Have a heartbeat confirmed that was sent so many seconds ago."""
        before = self.state
        self.fence.confirm(self.now - age)
        assert self.fence.fenced == (self.state != "working")
        return before, self.state, "confirm"


def steps_of_a_fence() -> Iterator[Step]:
    """Look again and again, and after each number of looks have a heartbeat confirmed in time."""
    for looks, age in product(range(LOOKS), (0.0, 3.0, TIMES.fencing.fenced)):
        one = Fenced()
        yield from (one.enforce() for _ in range(looks))
        yield one.confirm(age)


def test_the_page_of_a_fence_draws_what_it_does_from_look_to_look() -> None:
    start, steps = drawn("fence.md")
    assert start == Fenced().state
    assert steps == {step for step in steps_of_a_fence() if step[0] != step[1]}
    assert {state for before, after, _ in steps for state in (before, after)} == {"working", *LATER}


def test_a_fence_that_is_looked_at_late_passes_states_over_and_goes_never_back() -> None:
    found = set()
    for looks, late in product(range(LOOKS), repeat=2):
        one = Fenced()
        one.enforce(looks * TIMES.fencing.look)
        before, after, _ = one.enforce(late * TIMES.fencing.look)
        found |= {(before, after)} if before != after else set()
    assert found == set(combinations(("working", *LATER), 2))


def test_a_heartbeat_that_is_confirmed_too_late_opens_no_fence() -> None:
    for looks, late in product(range(LOOKS), repeat=2):
        one = Fenced()
        one.enforce(looks * TIMES.fencing.look)
        before, after, _ = one.confirm(TIMES.fencing.fenced + (late + 1) * TIMES.fencing.look)
        assert (before == "working") == (after == "working")
