"""What is said in fewer bytes, and to whom: nobody is sent what an earlier release cannot read.

Accepted tasks are recorded in groups, which say of each what one record of it would.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple.amqp import Outgoing
from maniple.codec import decode_envelopes, encode
from maniple.compression import GZIP
from maniple.errors import InvalidMessage
from maniple.identifiers import new_id
from maniple.loops import cancel
from maniple.messages import (
    ACCEPTED_TYPE,
    GROUPS_TYPE,
    WIRE,
    Envelope,
    TaskAccepted,
    TasksAccepted,
)
from maniple.timings import Peers as Times
from maniple.traceparent import trace_of_id
from maniple_dispatcher import wiring
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_bundles import LaneBundles, Readers
from maniple_dispatcher.egress.lane_publisher import AcceptedRecords
from maniple_dispatcher.ingress.admission import acceptance
from maniple_dispatcher.ingress.record_lookup import RecordSearch
from maniple_dispatcher.limits.membership import Membership
from maniple_runtime.records import Batch, Entry, Position, TaskKey, decode_records
from maniple_runtime.telemetry import Metrics
from work_with_fakes import NOW, OK, Agent, Delivery, FakePublisher, envelope

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def task(name: str | None = None, **fields: Any) -> Envelope:
    made = name or new_id()
    trace = trace_of_id(made, sampled=False) or TRACE
    known = {"capability": "a", "lane": "a", "submitted_at": NOW, "dispatched_at": NOW}
    return Envelope(**{"id": made, "deadline": NOW, "traceparent": trace, **known, **fields})


async def recorded(tasks: Sequence[Envelope], *, grouped: bool = True) -> tuple[str, bytes]:
    """Return the type and the body of the one message in which these are recorded."""
    publisher, told = FakePublisher(), list[object]()
    records = AcceptedRecords(publisher, Metrics(), Readers(records=grouped))
    for one in tasks:
        records.add_record(one, told.append)
    await records.drain_records()
    assert told == [None] * len(tasks)
    (message,) = publisher.sent
    assert message.encoding is None
    return message.type, message.body


def read(kind: str, body: bytes) -> list[TaskAccepted]:
    found = decode_records(kind, body, 7)
    entries = [one for one in found if isinstance(one, Entry)]
    assert [one.position for one in entries] == [Position(7, n) for n in range(len(found))]
    return [one.record for one in entries if isinstance(one.record, TaskAccepted)]


async def test_tasks_that_came_together_are_recorded_as_one() -> None:
    tasks = [task() for _ in range(100)]
    kind, body = await recorded(tasks)
    assert kind == GROUPS_TYPE
    assert read(kind, body) == [acceptance(one) for one in tasks]
    assert len(body) < 45 * len(tasks)


async def test_what_differs_is_in_groups_of_its_own() -> None:
    later = NOW + timedelta(hours=1)
    tasks = [
        task(),
        task(deadline=later),
        task(labels={"a": 'quo"te\n}'}, policies={"retry/x": 2}, clamped={"ttl": 3.0}),
        task(tenant="other"),
        task(deadline=later),
        task("no UUID"),
        task('quo"te\n', labels={"a": 'quo"te\n}'}),
        task(traceparent=TRACE),
        task(lane="a@b", capability="b"),
    ]
    kind, body = await recorded(tasks)
    records = read(kind, body)
    assert sorted(records, key=encode) == sorted(map(acceptance, tasks), key=encode)


@given(st.lists(st.text(min_size=1, max_size=128), min_size=1, max_size=9, unique=True))
async def test_any_ids_and_traces_are_read_as_they_were(names: list[str]) -> None:
    tasks = [task(name) for name in names]
    kind, body = await recorded(tasks)
    assert read(kind, body) == [acceptance(one) for one in tasks]


async def test_while_a_dispatcher_does_not_know_groups_each_has_its_own_record() -> None:
    tasks = [task(), task()]
    kind, body = await recorded(tasks, grouped=False)
    assert (kind, body) == (ACCEPTED_TYPE, encode([acceptance(one) for one in tasks]))


async def test_a_task_is_found_in_a_group_and_its_neighbours_are_not_kept() -> None:
    wanted = 'quo"te, ümlaut'
    search = RecordSearch([TaskKey("default", wanted)])
    kind, body = await recorded([task(), task(wanted), task(wanted, tenant="other")])
    found = [one for one in search.decode(kind, body, 0) if isinstance(one, Entry)]
    await search.add_batch(Batch(tuple(found), 1))
    (known,) = search.found.values()
    assert known.choose_record(None) == acceptance(task(wanted))
    assert not search.decode(kind, body.replace(wanted.encode()[-6:], b"another"), 0)


def test_a_group_that_cannot_be_read_costs_no_other() -> None:
    group = TasksAccepted(
        ids=("1", "2"), capability="a", lane="a", submitted_at=NOW, dispatched_at=NOW, deadline=NOW
    )
    found = decode_records(GROUPS_TYPE, b"[{},%b]" % encode(group), 7)
    assert isinstance(found[0], InvalidMessage)
    assert [one.position.member for one in found[1:] if isinstance(one, Entry)] == [1, 2]


def test_what_all_dispatchers_read_is_what_the_earliest_of_them_reads() -> None:
    peers = Membership("me", Times(), 0.0)
    assert peers.wire == 1  # whom we have not heard yet may be earlier
    peers.heard("me", 1.0, ready=True, wire=WIRE)
    assert peers.wire == WIRE
    peers.heard("earlier", 1.0, ready=True)
    assert peers.wire == 1
    peers.heard("earlier", 1.0, ready=True, wire=WIRE)  # it has been upgraded
    assert peers.wire == WIRE
    peers.heard("another", 1.0, ready=True)
    peers.on_leave("another")
    assert peers.wire == WIRE


def test_what_all_agents_read_is_what_the_earliest_of_them_reads() -> None:
    agents = Assignment()
    assert agents.wire == 1  # nobody is known
    agents.registered("new", "1", frozenset(), wire=WIRE)
    assert agents.wire == WIRE
    agents.registered("earlier", "1", frozenset({"a"}))
    agents.draining("earlier", "1")
    assert agents.wire == 1  # it has read what it finishes, and may have to read its own queue
    agents.gone("earlier", "1")
    assert agents.wire == WIRE
    agents.registered("earlier", "2", frozenset(), wire=WIRE)
    assert agents.wire == WIRE
    agents.registered("new", "2", frozenset())
    assert agents.wire == 1


async def to_lane(tasks: Sequence[Envelope], *, bundles: bool) -> Outgoing:
    """Return the message in which a dispatcher sends these to their lane."""
    publisher = FakePublisher()
    readers = Readers(bundles=bundles)
    lane = LaneBundles(publisher, Metrics(), Assignment(), lambda _: None, readers)
    lane.learn_times("a", 10_000, 1e-5)  # so that bundles are full
    for one in tasks:
        lane.publishers["maniple.lanes", False].add_item("a", encode(one), lambda _: None)
    await lane.drain_bundles()
    (message,) = publisher.sent
    return message


async def test_a_lanes_bundles_are_compressed_if_all_read_that() -> None:
    tasks = [task() for _ in range(100)]
    message = await to_lane(tasks, bundles=True)
    assert message.encoding == GZIP
    assert len(message.body) < 40 * len(tasks)
    assert decode_envelopes(message.body) == tasks
    message = await to_lane(tasks, bundles=False)
    assert (message.encoding, message.body) == (None, encode(tasks))


async def test_an_agent_runs_what_came_compressed_and_hands_back_what_is_damaged() -> None:
    agent = Agent()
    body = (await to_lane([envelope(str(n)) for n in range(20)], bundles=True)).body
    await agent.take(damaged := Delivery(body=body[:-9]))
    assert (damaged.acked, damaged.rejected) == (0, 1)
    await agent.take(delivery := Delivery(body=body))
    for number in range(20):
        await agent.finish(str(number), OK)
    assert (delivery.acked, delivery.rejected) == (1, 0)
    assert [one.id for one in agent.results()] == [str(number) for number in range(20)]


@pytest.mark.parametrize("peers", [1, WIRE])
@pytest.mark.parametrize("agents", [1, WIRE])
async def test_a_dispatcher_looks_again_and_again_what_the_others_read(
    monkeypatch: pytest.MonkeyPatch, peers: int, agents: int
) -> None:
    monkeypatch.setattr(wiring, "LOOK_PERIOD", 0.0)
    readers, fake, looked = Readers(), SimpleNamespace, asyncio.Event()
    lanes: Any = fake(redirect_overdue=lambda *, taking: looked.set() if taking else None)
    hot: Any = fake(publishes=True)
    coordinator: Any = fake(peers=fake(wire=peers))
    assignment: Any = fake(wire=agents)
    looking = asyncio.create_task(wiring._look(lanes, hot, readers, coordinator, assignment))
    await looked.wait()
    await cancel([looking])
    assert readers == Readers(records=peers == WIRE, bundles=peers == agents == WIRE)
