"""What the policy service remembers of requests."""

from datetime import UTC, datetime

from maniple.service.policies import parse_policy
from maniple_policy.domain.changes import Wanted, steps
from maniple_policy.domain.memory import KEPT, KEPT_BYTES, Memory
from maniple_policy.domain.records import Revision, Stored, succeed

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def revision(name: str, seconds: float, *, deleted: bool = False) -> Revision:
    policy = {"kind": "timeout", "name": name, "spec": {"seconds": seconds}}
    return Revision(policy=parse_policy(policy), author="ann", at=NOW, deleted=deleted)


def record(name: str, *seconds: float) -> Stored:
    made: Stored | None = None
    for one in seconds:
        made = succeed(made, revision(name, one))
    assert made is not None
    return made


def test_a_record_is_told_as_it_was() -> None:
    now = record("t", 1, 2, 3)
    assert now.as_of(3) == now
    assert now.as_of(2) == now.before == record("t", 1, 2)
    assert now.as_of(1) == record("t", 1)
    assert (now.as_of(4), record("t", 1).before) == (None, None)


def test_what_a_request_has_made_is_its_step_whatever_was_made_since() -> None:
    before = record("t", 1, 2)
    (step,) = steps({before.key: before}, [Wanted(revision("t", 3))], {})
    memory = Memory.read(Memory().after("r1", [step.record]).to_value("x"))
    now = {before.key: succeed(step.record, revision("t", 9))}
    assert memory.steps("r1", now) == {before.key: step}
    assert memory.steps("r1", now)[before.key].changed
    assert memory.steps("r2", now) == memory.steps("", now) == {}


def test_a_request_is_remembered_for_all_that_it_makes_in_several_commits() -> None:
    memory = Memory().after("r1", [record("a", 1)]).after("r2", []).after("r1", [record("b", 1, 2)])
    assert memory.made["r1"] == {"timeout/a": 1, "timeout/b": 2}
    assert list(memory.made) == ["r2", "r1"]
    assert memory.after("", [record("c", 1)]) is memory


def test_the_latest_requests_are_remembered_and_their_room_is_bounded() -> None:
    memory = Memory()
    for n in range(KEPT + 50):
        memory = memory.after(f"r{n}", [record("t", 1)])
    kept = Memory.read(memory.to_value("x"))
    assert list(kept.made) == [f"r{n}" for n in range(50, KEPT + 50)]
    large = Memory({f"r{n}": {f"timeout/{n}-{'x' * 1000}": 1} for n in range(100)})
    assert len(large.to_value("x")) < KEPT_BYTES + 1000
    assert "r99" in Memory.read(large.to_value("x")).made


def test_a_guard_of_another_release_says_nothing() -> None:
    for value in (b"", b"5f3a9c0d11223344", b'{"token": "x", "requests": {"r": {"k": -1}}}', b"[]"):
        assert Memory.read(value) == Memory()
    newer = b'{"token": "x", "requests": {"r": {"timeout/t": 1}}, "more": 1}'
    assert Memory.read(newer).made == {"r": {"timeout/t": 1}}
