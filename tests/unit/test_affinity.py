"""Which agent the tasks of an affinity key go to."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from maniple.messages import Envelope
from maniple_dispatcher.affinity.assignment import Assignment, affinity_lanes

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LANE = frozenset({"cart.add"})
AGENTS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
KEYS = st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True)


def task(key: str | None, **changes: object) -> Envelope:
    plain = Envelope(
        id="1",
        capability="cart.add",
        lane="cart.add",
        affinity=key,
        submitted_at=NOW,
        deadline=NOW + timedelta(hours=1),
    )
    return replace(plain, **changes)


def roster_of(agents: list[str], incarnation: str = "1") -> Assignment:
    assignment = Assignment()
    for agent in agents:
        assignment.registered(agent, incarnation, LANE)
    return assignment


def homes(assignment: Assignment, keys: list[str]) -> dict[str, str | None]:
    return {key: assignment.choose(task(key)) for key in keys}


@given(AGENTS, KEYS, st.randoms())
def test_every_dispatcher_that_knows_the_same_agents_chooses_the_same(
    agents: list[str], keys: list[str], shuffle: object
) -> None:
    before = homes(roster_of(agents), keys)
    assert set(before.values()) <= set(agents)
    shuffle.shuffle(agents)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert homes(roster_of(agents), keys) == before


@given(AGENTS, KEYS, st.data())
def test_an_agent_that_leaves_moves_only_its_own_keys(
    agents: list[str], keys: list[str], data: st.DataObject
) -> None:
    assignment = roster_of(agents)
    before = homes(assignment, keys)
    leaving = data.draw(st.sampled_from(agents))
    assert assignment.gone(leaving, "1")
    after = homes(assignment, keys)
    assert {key for key in keys if after[key] != before[key]} == {
        key for key in keys if before[key] == leaving
    }
    assert leaving not in after.values()
    assignment.registered(leaving, "2", LANE)
    assert homes(assignment, keys) == before


def test_keys_are_spread_evenly() -> None:
    agents = [f"agent-{n}" for n in range(8)]
    chosen = list(homes(roster_of(agents), [str(n) for n in range(8000)]).values())
    assert all(850 < chosen.count(agent) < 1150 for agent in agents)


def test_tenants_and_capabilities_have_keys_of_their_own() -> None:
    assignment = roster_of([f"agent-{n}" for n in range(50)])
    keys = [str(n) for n in range(100)]
    mine = [assignment.choose(task(key)) for key in keys]
    assert mine != [assignment.choose(task(key, tenant="other")) for key in keys]
    assert mine != [assignment.choose(task(key, capability="other")) for key in keys]


def test_without_a_key_or_an_agent_or_for_a_suspect_it_is_the_lane_of_all() -> None:
    assignment = roster_of(["a"])
    assert assignment.choose(task("k")) == "a"
    assert assignment.choose(task(None)) is None
    assert assignment.choose(task("k", lane="cart.add@eu")) is None
    assert assignment.choose(task("k", lost=1)) == "a"
    assert assignment.choose(task("k", lost=2)) is None
    assert Assignment().choose(task("k")) is None


def test_lanes_are_those_of_the_capabilities_with_affinity() -> None:
    lanes = affinity_lanes(["cart.add", "cart.add@eu", "text.stats"], ["cart.add"])
    assert lanes == {"cart.add", "cart.add@eu"}


def test_a_draining_agent_gets_nothing_new_and_is_not_gone() -> None:
    assignment = roster_of(["a"])
    assignment.draining("a", "0")
    assert assignment.choose(task("k")) == "a"
    assignment.draining("a", "1")
    assert assignment.choose(task("k")) is None
    assert assignment.reads("a")
    assignment.registered("a", "1", LANE)
    assert assignment.choose(task("k")) is None


def test_an_agent_that_is_withheld_is_chosen_for_nothing_until_it_is_released() -> None:
    assignment = roster_of(["a", "b"])
    keys = [str(n) for n in range(20)]
    before = homes(assignment, keys)
    assignment.withhold("a")
    assert set(homes(assignment, keys).values()) == {"b"}
    assignment.withhold("b")
    assignment.registered("b", "2", LANE)
    assert set(homes(assignment, keys).values()) == {None}
    for agent in ("a", "b"):
        assignment.release(agent)
    assert homes(assignment, keys) == before


def test_an_incarnation_that_is_gone_stays_gone_and_a_later_one_is_not_touched() -> None:
    assignment = roster_of(["a"])
    assert assignment.gone("a", "1")
    assignment.registered("a", "1", LANE)
    assert not assignment.reads("a")
    assignment.registered("a", "2", LANE)
    assert not assignment.gone("a", "1")
    assert assignment.choose(task("k")) == "a"


def test_only_an_agent_that_may_have_a_queue_leaves_one_behind() -> None:
    assignment = Assignment()
    assignment.registered("plain", "1", frozenset())
    assert not assignment.gone("plain", "1")
    assert assignment.gone("never heard of", "1")
    assert not assignment.registered("plain", "2", LANE)
    assert assignment.registered("plain", "3", frozenset())
    assert not assignment.reads("plain")
    assert assignment.gone("plain", "3")
    assert assignment.missing("of old", marked=True)
    assert not assignment.missing("of old", marked=False)


def test_an_agent_that_is_missing_comes_back_when_it_is_heard_of() -> None:
    assignment = roster_of(["a"])
    assert assignment.missing("a", marked=False)
    assert not assignment.reads("a")
    assignment.registered("a", "1", LANE)
    assert assignment.choose(task("k")) == "a"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["registered", "draining", "gone"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["1", "2", "3"]),
    ),
    max_size=20,
)


@given(EVENTS)
def test_what_is_said_twice_changes_nothing(events: list[tuple[str, str, str]]) -> None:
    once, twice = Assignment(), Assignment()
    for assignment, repeat in ((once, 1), (twice, 2)):
        for what, agent, incarnation in events:
            for _ in range(repeat):
                if what == "registered":
                    assignment.registered(agent, incarnation, LANE)
                else:
                    getattr(assignment, what)(agent, incarnation)
    keys = [str(n) for n in range(20)]
    assert homes(once, keys) == homes(twice, keys)
    assert once.here == twice.here
    assert set(once.serving("cart.add")) == {a for a in once.here if once.lanes(a)}
