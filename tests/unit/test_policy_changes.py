"""What the policy service decides about changes: versions, conflicts, ties."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from maniple.errors import RequestFailed
from maniple_policies import parse_policy
from maniple_policy.domain.changes import Step, Wanted, steps
from maniple_policy.domain.reconcile import Found, Plan, reconcile
from maniple_policy.domain.records import HISTORY_KEPT, Revision, Stored, revision_of, succeed

NOW = datetime(2026, 11, 22, tzinfo=UTC)
Match = Mapping[str, Any]


def change(name: str, match: Match, *, deleted: bool = False, **more: Any) -> Revision:
    document = {"kind": "timeout", "name": name, "match": match, "spec": {"seconds": 1}, **more}
    return Revision(policy=parse_policy(document), author="ann", at=NOW, deleted=deleted)


def records(**matches: Match) -> dict[str, Stored]:
    return {f"timeout/{n}": succeed(None, change(n, match)) for n, match in matches.items()}


def decide(
    before: Mapping[str, Stored],
    *changes: Revision,
    refused: Mapping[str, Stored] | None = None,
    floor: int = 0,
) -> list[Step]:
    return steps(before, [Wanted(one) for one in changes], refused or {}, floor)


def test_while_processes_run_a_later_set_a_change_makes_a_version_above_that() -> None:
    before = records(a={"capability": "a"}, b={"capability": "b"})
    same = change("a", {"capability": "a"}), change("b", {"capability": "b"})
    assert not any(step.changed for step in decide(before, *same))
    first, second = decide(before, *same, floor=40)
    assert (first.changed, first.record.version, second.changed) == (True, 41, False)
    after = {**before, first.record.key: first.record}
    assert revision_of(after.values()) == 42
    other, another = decide(before, change("c", {}), change("b", {"tenant": "t"}), floor=40)
    assert (other.record.version, another.record.version) == (41, 2)


def test_an_edit_in_consul_does_so_too_and_a_tombstone_counts() -> None:
    ours = records(a={"capability": "a"})
    edited = change("a", {"capability": "x"}).policy.model_dump_json().encode()
    (write,) = reconcile(ours, {"timeout/a": Found(edited, 1)}, NOW, 40).write
    assert write.record.version == 41
    (deleted,) = decide(ours, change("a", {"capability": "a"}, deleted=True))
    assert revision_of([deleted.record]) == 2


X, Y, Z = ({"capability": f"{letter}.*"} for letter in "xyz")


def test_a_tie_names_both_documents() -> None:
    with pytest.raises(RequestFailed) as refused:
        decide(records(a=X), change("b", X))
    assert refused.value.code == "policy_tie"
    assert "timeout/b and timeout/a" in refused.value.message


def test_changes_are_judged_together() -> None:
    before = records(a=X, b=Y)
    swapped = decide(before, change("a", Y), change("b", X))
    assert [step.record.version for step in swapped] == [2, 2]
    with pytest.raises(RequestFailed, match="policy_tie"):
        decide(before, change("a", Y))
    with pytest.raises(RequestFailed, match="policy_tie"):
        decide(before, change("c", Z), change("d", Z))


def test_what_is_deleted_ties_with_nothing() -> None:
    before = records(a=X)
    decide(before, change("a", X, deleted=True), change("b", X))
    gone = {"timeout/a": succeed(before["timeout/a"], change("a", X, deleted=True))}
    (step,) = decide(gone, change("b", X))
    assert (step.changed, step.before) == (True, None)


def test_what_a_rollout_leaves_to_the_others_counts_for_ties() -> None:
    before = records(a=X)
    (step,) = decide(before, change("a", Y, rollout={"percent": 10}))
    for match in (X, Y):
        with pytest.raises(RequestFailed, match="policy_tie"):
            decide({"timeout/a": step.record}, change("b", match))
    decide({"timeout/a": step.record}, change("b", Z))


def test_what_is_refused_in_consul_must_not_be_tied_with_either() -> None:
    with pytest.raises(RequestFailed, match="policy_tie"):
        decide(records(a=X), change("b", Y), refused=records(c=Y))
    decide(records(a=X), change("c", Y), refused=records(c=X))  # replaces the refused one


@pytest.mark.parametrize(("expect", "code"), [(0, "conflict"), (2, "conflict"), (1, "")])
def test_an_expectation_is_compared_with_the_present_version(expect: int, code: str) -> None:
    before = records(a=X)
    wanted = [Wanted(change("a", Y), expect)]
    if not code:
        assert steps(before, wanted, {})[0].record.version == 2
        return
    with pytest.raises(RequestFailed) as refused:
        steps(before, wanted, {})
    assert refused.value.code == code


def test_saying_the_same_again_changes_nothing() -> None:
    before = records(a=X)
    (step,) = decide(before, change("a", X))
    assert (step.changed, step.record.version) == (False, 1)


def test_the_version_before_a_rollout_is_remembered_however_long_it_goes_on() -> None:
    made = records(a=X)["timeout/a"]
    for n in range(HISTORY_KEPT + 50):
        made = succeed(made, change("a", Y, rollout={"percent": n / 10}))
    assert len(made.history) == HISTORY_KEPT
    before = made.in_force.before
    assert before is not None
    assert (before.version, before.match.capability) == (1, "x.*")


def edited(record: Stored, match: Match) -> Stored:
    """Return a record as somebody leaves it who edits its selector in Consul."""
    content = json.loads(record.to_json())
    content["policy"]["match"] = match
    return Stored.model_validate(content)


def plan(ours: Mapping[str, Stored], *theirs: tuple[Stored, int]) -> Plan:
    found = {r.key: Found(r.to_json(), index) for r, index in theirs}
    return reconcile(ours, found, NOW)


def test_an_edit_in_consul_that_ties_is_reported_and_ours_stays() -> None:
    ours = records(a=X, b=Y)
    a, b = ours.values()
    decided = plan(ours, (a, 1), (edited(b, X), 2))
    assert (decided.take, decided.write) == ({}, [])
    assert "timeout/b and timeout/a" in decided.invalid["timeout/b"]
    assert list(decided.tied) == ["timeout/b"]


def test_of_two_new_documents_that_tie_the_earlier_one_is_taken_in_any_order() -> None:
    one, two = records(a=X, b=X).values()
    for theirs in (((one, 7), (two, 5)), ((two, 5), (one, 7))):
        decided = plan({}, *theirs)
        assert (list(decided.take), list(decided.invalid)) == (["timeout/b"], ["timeout/a"])


def test_documents_that_changed_places_are_taken_together() -> None:
    ours = records(a=X, b=Y)
    a, b = ours.values()
    moved = [succeed(a, change("a", Y)), succeed(b, change("b", X))]
    decided = plan(ours, *((record, n) for n, record in enumerate(moved)))
    assert (sorted(decided.take), decided.invalid) == (["timeout/a", "timeout/b"], {})


def test_a_document_that_cannot_be_read_ties_with_nothing() -> None:
    ours = records(a=X)
    new = records(b=X)["timeout/b"]
    found = {"timeout/a": Found(b"{", 1), "timeout/b": Found(new.to_json(), 2)}
    decided = reconcile(ours, found, NOW)
    assert (list(decided.take), list(decided.invalid)) == (["timeout/b"], ["timeout/a"])


def test_text_that_no_message_can_carry_is_not_read() -> None:
    new = change("a", X).policy.model_dump(mode="json")
    broken = json.dumps({**new, "match": {"tenant": "\ud800"}}).encode()
    assert "timeout/a" in reconcile({}, {"timeout/a": Found(broken, 1)}, NOW).invalid
