"""What anybody may have written to Consul, read by those that live by it: it ends none of them."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from maniple.clock import SYSTEM_CLOCK
from maniple.timings import Bounds, Timings
from maniple_dispatcher.affinity.queue_markers import MOST, QueueMarkers
from maniple_dispatcher.egress.lane_deadlines import is_lane
from maniple_dispatcher.limits import snapshot_notes, snapshot_pages
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.snapshot import LimitSnapshot
from maniple_dispatcher.limits.token_bucket import Terms, TokenBuckets
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_policy.store import MOST_NAMED, Store
from maniple_registry.domain import agents as registry_fleet
from maniple_registry.domain.agent_record import Instant
from maniple_registry.watch import ConsulWatch
from maniple_runtime.consul.catalog import CatalogEntry, Instance
from maniple_runtime.consul.client import Consul
from maniple_runtime.health import Health
from maniple_runtime.leadership import SOMEBODY, Leadership
from maniple_runtime.telemetry import process_metrics

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SPEC = CircuitBreakerSpec(consecutive=3, open_for=600.0)
DEEP = b"[" * 100_000
VAST = b"9" * 100_000


def short(value: Any) -> str:
    """Name a case."""
    return ascii(value)[:30]


class Shelf:
    """A key-value store with what the test puts there."""

    def __init__(self, **kept: bytes) -> None:
        self.kept = kept
        self.put: dict[str, bytes] = {}

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        found = {**{prefix + name: value for name, value in self.kept.items()}, **self.put}
        return 1, [CatalogEntry(key, value, 1) for key, value in found.items()]

    async def kv_put(self, key: str, value: bytes, **_: Any) -> bool:
        self.put[key] = value
        return True

    async def kv_delete(self, *_: Any, **__: Any) -> bool:
        return True


# --- dispatchers' memory -----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b'{"levels":{},"breakers":{"a":["open",Infinity,0]},"at":9e99}',
        DEEP,
        b'{"at": ' + VAST + b"}",
        b'{"levels": {"k": [1, 2, 3, ' + b"9" * 4000 + b"]}}",
        json.dumps({"breakers": {"a" * 300: ["open", 1, 0], "a\nb": ["open", 1, 0]}}).encode(),
        json.dumps({"rooms": {"b": [3, ["lane " * 100], 0]}}).encode(),
    ],
    ids=short,
)
async def test_a_dispatcher_starts_whatever_stands_beside_what_another_remembers(
    value: bytes,
) -> None:
    good = json.dumps({"breakers": {"lane": ["open", 3, datetime.now(UTC).timestamp()]}}).encode()
    of = Coordinator("one", LeaseOwner(lambda _: SPEC), 0.0)
    shelf = cast("Consul", Shelf(bad=value, good=good))
    memory = LimitSnapshot(
        shelf,
        "maniple/dev",
        "one",
        coordinator=of,
        log=structlog.get_logger(),
        clock=SYSTEM_CLOCK,
    )
    assert await memory.load()
    assert [lane for lane, _ in of.owned.breakers()] == ["lane"]


numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([1e300, -1e300, 5e-324, 2**53, -(2**63), 10**400])
)
odd = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
lists = st.lists(st.one_of(numbers, odd, st.sampled_from(["open", "closed"])), max_size=5)
kinds = st.dictionaries(st.sampled_from(["lane", "k", "a b", ""]), st.one_of(lists, odd))
written = st.fixed_dictionaries({"levels": kinds, "breakers": kinds, "rooms": kinds, "at": odd})


@settings(deadline=None)
@given(written)
def test_whatever_can_be_read_of_notes_can_be_merged_written_and_gone_on_with(value: Any) -> None:
    try:
        kept = snapshot_notes.read(json.dumps(value).encode(), 1e9)
    except ValueError:
        return
    merged = snapshot_notes.with_ours(snapshot_notes.latest([kept, kept]), kept).lasting(1e9)
    assert snapshot_notes.read(snapshot_pages.write(merged, 1e9).value, 1e9).breakers == dict(
        merged.breakers
    )
    buckets = TokenBuckets()
    for key, (level, rate, capacity, at) in kept.levels.items():
        buckets.restore(key, (level, rate, capacity), 1e9 - at, 10.0)
        taken = buckets.take_tokens(key, Terms(rate=1.0, capacity=5.0), 1, 10.0)
        assert 0.0 <= taken.again <= 6.0  # it owes no more than it could by its own terms


def test_more_than_all_dispatchers_together_can_write_is_not_kept() -> None:
    many = [
        snapshot_notes.SnapshotNotes(
            breakers={f"lane{n}.{m}": ("open", 1, 1.0) for m in range(5000)}
        )
        for n in range(10)
    ]
    assert len(snapshot_notes.latest(many).breakers) == snapshot_notes.MOST_KEPT


# --- marks of queues and lanes -----------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a" * 300, "no agent", "a\x1b]0;title\x07", "", "a.b", "a\n"], ids=short
)
async def test_a_mark_that_is_no_agents_is_passed_over_and_told_once(name: str) -> None:
    shelf = cast("Consul", Shelf(**{name: b"", "agent-1": b""}))
    marks = QueueMarkers(shelf, "maniple/dev", structlog.get_logger())
    with capture_logs() as logs:
        for _ in range(2):
            assert await marks.refresh(["agent-2"]) == {"agent-1", "agent-2"}
    assert [log["number"] for log in logs if log["log_level"] == "warning"] == [1]


@pytest.mark.parametrize("name", ["a" * 300, "Upper", "text.stats@", "a\n", "a..b"], ids=short)
async def test_a_mark_that_is_no_lanes_is_passed_over(name: str) -> None:
    shelf = cast("Consul", Shelf(**{name: b"", "text.stats@canary": b""}))
    marks = QueueMarkers(shelf, "maniple/dev", structlog.get_logger(), "lanes", is_name=is_lane)
    assert await marks.refresh([]) == {"text.stats@canary"}


async def test_forged_marks_by_the_thousand_crowd_out_none_of_ours() -> None:
    shelf = cast("Consul", Shelf(**{f"a{n}": b"" for n in range(3 * MOST)}))
    marks = QueueMarkers(shelf, "maniple/dev", structlog.get_logger())
    ours = [f"z{n}" for n in range(10)]
    found = await marks.refresh(ours)
    assert found.issuperset(ours)
    assert marks.has(ours)
    assert len(found) == MOST + len(ours)


# --- agents that a registry finds there --------------------------------------------------


def listed(name: str, life: str = "life-1") -> Instance:
    meta = {"environment": "dev", "life": life}
    return Instance(name, "maniple-agent", "node", "127.0.0.1", 1, "passing", {}, (), meta)


@pytest.mark.parametrize(
    "entry",
    [listed("no agent!"), listed("a" * 300), listed("agent-2", "l" * 5000), listed("", "\x1b[2J")],
    ids=short,
)
async def test_an_entry_that_no_agent_has_is_not_declared_failed_and_ends_no_registry(
    entry: Instance,
) -> None:
    fleet = registry_fleet.Agents()

    async def instances(_: str) -> list[Instance]:
        return [entry, listed("agent-1")]

    handlers: Any = SimpleNamespace(fleet=fleet, log=structlog.get_logger())
    consul: Any = SimpleNamespace(instances=instances)
    watch = ConsulWatch(handlers, consul, "dev", Timings())
    for found in await watch._listed():
        fleet.seed(found.id, found.meta["life"], 0.0, Instant(0.0, NOW))
    assert [record.agent for record in fleet] == ["agent-1"]
    late = Instant(Bounds().failed + 1.0, NOW)
    decided = fleet.judge(fleet.overdue(late), late)
    assert [event.agent for _, decision in decided for event in decision.events] != []


# --- policies ----------------------------------------------------------------------------

DOCUMENT = {"kind": "timeout", "name": "t", "spec": {"seconds": 3}}


def store(path: Path, shelf: Any) -> Store:
    async def announce(_: Any) -> None:
        """Tell nobody."""

    health, metrics = Health("policy", "p1"), process_metrics()
    return Store(
        cast("Consul", shelf),
        "maniple/dev",
        path / "store.json",
        health=health,
        metrics=metrics,
        announce=announce,
        now=lambda: NOW,
    )


def stored(version: Any, name: str = "t") -> bytes:
    policy = {**DOCUMENT, "name": name, "version": version}
    return json.dumps({"policy": policy, "author": "x", "at": NOW.isoformat()}).encode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout/bad", DEEP),
        ("timeout/bad", stored(2**53, "bad")),
        ("timeout/bad", stored(-1, "bad")),
        ("timeout/bad", b'{"policy": ' + VAST + b"}"),
        ("k" * 5000, b"{}"),
        ("\x1b]0;title\x07", stored(1)),
    ],
    ids=short,
)
async def test_a_policy_that_cannot_be_costs_no_other(
    tmp_path: Path, name: str, value: bytes
) -> None:
    prefix = "maniple/dev/policies/"
    entries = [
        CatalogEntry(prefix + name, value, 2),
        CatalogEntry(prefix + "timeout/t", stored(1), 3),
    ]
    found = store(tmp_path, Shelf())
    await found.sync(entries)
    assert found.policies.versions == {"timeout/t": 1}
    [(shown, reason)] = found.invalid.items()
    assert name.startswith(shown)
    assert len(shown) + len(reason) < 1000


async def test_of_very_many_that_cannot_be_the_first_are_named(tmp_path: Path) -> None:
    prefix = "maniple/dev/policies/"
    found = store(tmp_path, Shelf())
    await found.sync([CatalogEntry(f"{prefix}timeout/n{n}", b"[]", n + 1) for n in range(2000)])
    assert len(found.invalid) == MOST_NAMED


# --- who leads ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"x" * 100_000, b"\x1b[2J", b"", b"\xff\n"], ids=short)
async def test_whoever_writes_what_is_no_name_where_the_leader_stands_is_somebody(
    value: bytes,
) -> None:
    entry = CatalogEntry("key", value, 1, "session")

    async def kv_get(_: str) -> CatalogEntry:
        return replace(entry)

    runtime: Any = SimpleNamespace(
        settings=SimpleNamespace(
            instance="r1", timings=Timings(), consul_prefix="maniple/dev", service="registry"
        ),
        consul=SimpleNamespace(kv_get=kv_get),
        clock=SYSTEM_CLOCK,
    )
    assert await Leadership(runtime)._ask() == SOMEBODY
