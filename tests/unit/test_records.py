"""What the records say of a task, whatever the order and however often they are read."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple.codec import encode
from maniple.errors import InvalidMessage
from maniple.messages import (
    ACCEPTED_TYPE,
    RESULTS_TYPE,
    RUNNING_TYPE,
    Result,
    Status,
    TaskAccepted,
    TaskRunning,
)
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.events import AgentFailed
from maniple_runtime.records import (
    Entry,
    FirstWins,
    Position,
    Record,
    TaskKey,
    Verdict,
    decode_records,
)
from maniple_runtime.states import TaskState, is_terminal

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
ONE = TaskKey("default", "one")


def result(task: str = "one", status: Status = Status.SUCCEEDED, agent: str = "a1") -> Result:
    return Result(id=task, capability="c", status=status, agent=agent, finished_at=NOW)


def accepted(task: str = "one") -> TaskAccepted:
    return TaskAccepted(
        id=task,
        capability="c",
        lane="c",
        submitted_at=NOW,
        dispatched_at=NOW,
        deadline=NOW + timedelta(hours=1),
    )


def running(task: str = "one") -> TaskRunning:
    return TaskRunning(id=task, capability="c", attempt=1, agent="a1", started_at=NOW)


def reading(*records: Record) -> tuple[FirstWins, list[Verdict | None]]:
    """Read records that stand one after the other in the stream."""
    ledger = FirstWins()
    return ledger, [ledger.take(Entry(Position(n), record)) for n, record in enumerate(records)]


def state(ledger: FirstWins, key: TaskKey = ONE) -> TaskState | None:
    fate = ledger.get(key)
    return fate.state if fate else None


def test_a_later_end_is_refused_and_listed() -> None:
    ledger, verdicts = reading(result(), result(status=Status.FAILED, agent="a2"))
    assert verdicts == [Verdict.FIRST, Verdict.REFUSED]
    assert state(ledger) is TaskState.SUCCEEDED
    assert (ledger.terminal, ledger.refused, ledger.repeated) == (1, 1, 0)
    assert [(key, end.ending.agent) for key, end in ledger.late()] == [(ONE, "a2")]


def test_the_same_end_published_again_is_no_other_end() -> None:
    ledger, verdicts = reading(result(), result())
    assert verdicts == [Verdict.FIRST, Verdict.REPEATED]
    assert (ledger.terminal, ledger.refused, ledger.repeated) == (1, 0, 1)
    assert list(ledger.late()) == []


def test_the_same_id_of_another_tenant_is_another_task() -> None:
    ledger = FirstWins()
    ledger.take(Entry(Position(0), result()))
    theirs = Result(id="one", capability="c", status=Status.FAILED, tenant="them")
    assert ledger.take(Entry(Position(1), theirs)) is Verdict.FIRST
    assert ledger.terminal == 2


def test_an_accepted_that_is_heard_after_the_end_changes_nothing() -> None:
    assert state(reading(result(), accepted(), running())[0]) is TaskState.SUCCEEDED


def test_a_task_is_running_once_an_attempt_said_so() -> None:
    ledger, verdicts = reading(accepted(), running(), accepted())
    assert (state(ledger), verdicts) == (TaskState.RUNNING, [None, None, None])
    assert ledger.terminal == 0


def test_what_agents_do_says_nothing_of_tasks() -> None:
    event = AgentFailed(agent=AgentId("a1"), incarnation=Incarnation("1"), at=NOW)
    ledger, verdicts = reading(event)
    assert (len(ledger), verdicts, ledger.next_offset) == (0, [None], 1)


def test_every_status_is_a_terminal_state() -> None:
    assert all(is_terminal(TaskState(status.value)) for status in Status)


@st.composite
def streams(draw: st.DrawFn) -> list[Entry]:
    """Bundles of records of a few tasks; some ends are told twice, some tasks end differently."""
    tasks, agents = st.sampled_from(["one", "two", "three"]), st.sampled_from(["a1", "a2"])
    results = st.builds(result, tasks, st.sampled_from(Status), agents)
    records = st.one_of(results, st.builds(accepted, tasks), st.builds(running, tasks))
    bundles = draw(st.lists(st.lists(records, min_size=1, max_size=3), max_size=8))
    return [
        Entry(Position(offset, member), record)
        for offset, bundle in enumerate(bundles)
        for member, record in enumerate(bundle)
    ]


def seen(ledger: FirstWins) -> object:
    """All that a ledger can tell."""
    counts = (ledger.terminal, ledger.refused, ledger.repeated, ledger.next_offset)
    return dict(ledger), len(list(ledger.late())), counts


def read(entries: list[Entry]) -> FirstWins:
    ledger = FirstWins()
    for entry in entries:
        ledger.take(entry)
    return ledger


@given(streams(), st.data())
def test_any_order_and_any_repetition_tells_the_same(
    stream: list[Entry], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(stream))) if stream else []
    shuffled = data.draw(st.permutations(stream + again))
    assert seen(read(shuffled)) == seen(read(stream))


def test_a_task_is_over_also_by_a_status_that_only_a_newer_program_knows() -> None:
    before, _ = reading(accepted())
    after, verdicts = reading(accepted(), result(status=Status("paused")))
    fates = [ledger.get(ONE) for ledger in (before, after)]
    assert [fate is not None and fate.over for fate in fates] == [False, True]
    assert (verdicts, after.terminal) == ([None, Verdict.FIRST], 1)


@given(streams())
def test_the_first_by_offset_is_the_terminal_state(stream: list[Entry]) -> None:
    ledger = read(list(reversed(stream)))
    assert {key.id for key, _ in ledger} == {entry.record.id for entry in stream}
    for key, fate in ledger:
        ends = [e.record for e in stream if isinstance(e.record, Result) and e.record.id == key.id]
        if ends:
            assert fate.state == ends[0].status.value
        else:
            assert fate.state in {TaskState.ACCEPTED, TaskState.RUNNING}


@given(streams(), st.integers(0, 8))
def test_reading_again_from_any_earlier_offset_changes_nothing(
    stream: list[Entry], offset: int
) -> None:
    ledger = read(stream)
    before = seen(ledger)
    for entry in stream:
        if entry.position.offset >= offset:
            ledger.take(entry)
    assert seen(ledger) == before


def test_messages_of_the_stream_are_read_by_their_type() -> None:
    event = AgentFailed(agent=AgentId("a1"), incarnation=Incarnation("1"), at=NOW)
    bodies = {
        ACCEPTED_TYPE: encode([accepted("one"), accepted("two")]),
        RUNNING_TYPE: encode([running()]),
        RESULTS_TYPE: encode([result()]),
        AgentFailed.TYPE: event.to_json(),
        "maniple.later.v1": b"{}",
    }
    found = [_read(decode_records(kind, body, 7)) for kind, body in bodies.items()]
    assert [entry.position for entry in found[0]] == [Position(7, 0), Position(7, 1)]
    assert [type(entry.record).__name__ for entries in found[1:] for entry in entries] == [
        "TaskRunning",
        "Result",
        "AgentFailed",
    ]


def _read(found: Sequence[Entry | InvalidMessage]) -> list[Entry]:
    return [entry for entry in found if isinstance(entry, Entry)]


@pytest.mark.parametrize("kind", [ACCEPTED_TYPE, RESULTS_TYPE, AgentFailed.TYPE])
def test_a_body_that_is_not_what_its_type_says_is_refused(kind: str) -> None:
    with pytest.raises(InvalidMessage):
        decode_records(kind, b"7", 1)


def test_a_record_that_cannot_be_read_costs_no_other() -> None:
    first, last = encode(result("one")), encode(result("two"))
    found = decode_records(RESULTS_TYPE, b"[%b,{},%b]" % (first, last), 7)
    assert [entry.position for entry in _read(found)] == [Position(7, 0), Position(7, 2)]
    assert isinstance(found[1], InvalidMessage)
