"""The policy service's decisions when Consul and its own copy differ."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple_policy.domain.reconcile import NEW, Found, reconcile
from maniple_policy.domain.records import (
    CONSUL,
    HISTORY_BYTES,
    HISTORY_KEPT,
    Stored,
    read,
    succeed,
)
from policy_records import KEY, NAME, NOW, document, record, revision


def found(value: Stored | dict[str, Any] | bytes, index: int = 5) -> dict[str, Found]:
    if isinstance(value, Stored):
        value = value.to_json()
    return {KEY: Found(value if isinstance(value, bytes) else json.dumps(value).encode(), index)}


def test_versions_rise_and_what_was_is_remembered() -> None:
    made = record(1, 2, 3)
    assert made.version == 3
    assert [r.policy.version for r in made.history] == [2, 1]
    assert read(KEY, made.to_json()) == made


def test_history_is_bounded_in_number_and_size() -> None:
    assert len(record(*range(1, HISTORY_KEPT + 10)).history) == HISTORY_KEPT
    made = None
    for n in range(60):
        made = succeed(made, revision(n + 1).model_copy(update={"reason": "x" * 10_000}))
    assert made is not None
    assert HISTORY_BYTES / 2 < len(made.to_json()) < 512 * 1024


def test_equal_copies_need_nothing() -> None:
    made = record(1, 2)
    plan = reconcile({KEY: made}, found(made), NOW)
    assert (plan.take, plan.write, plan.invalid) == ({}, [], {})


def test_a_consul_that_lost_a_policy_gets_it_back() -> None:
    made = record(1, 2)
    (write,) = reconcile({KEY: made}, {}, NOW).write
    assert (write.record, write.index) == (made, NEW)


def test_a_consul_that_went_back_in_time_gets_the_newer_one() -> None:
    (write,) = reconcile({KEY: record(1, 2)}, found(record(1)), NOW).write
    assert (write.record.version, write.index) == (2, 5)


def test_a_newer_version_is_taken() -> None:
    newer = record(1, 2)
    for ours in ({}, {KEY: record(1)}):
        plan = reconcile(ours, found(newer), NOW)
        assert (plan.take, plan.write) == ({KEY: newer}, [])


def test_an_edit_in_place_becomes_a_new_version() -> None:
    ours = record(1, 2)
    value = json.loads(ours.to_json())
    value["policy"]["spec"]["seconds"] = 9
    (write,) = reconcile({KEY: ours}, found(value), NOW).write
    assert (write.record.version, write.record.author, write.index) == (3, CONSUL, 5)
    assert write.record.policy.spec.model_dump() == {"seconds": 9}
    assert [r.policy.version for r in write.record.history] == [2, 1]


@pytest.mark.parametrize(
    ("ours", "version", "expected"), [((), 0, 1), ((1.0,), 0, 2), ((1.0,), 9, 9), ((), 4, 4)]
)
def test_a_bare_document_becomes_a_version_above_ours(
    ours: tuple[float, ...], version: int, expected: int
) -> None:
    mine = {KEY: record(*ours)} if ours else {}
    (write,) = reconcile(mine, found(document(NAME, 7) | {"version": version}), NOW).write
    assert (write.record.version, write.record.author) == (expected, CONSUL)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        json.dumps(document(NAME, -1)).encode(),
        json.dumps(document(NAME) | {"name": "another"}).encode(),
        b'{"policy": {}}',
    ],
)
def test_what_cannot_be_used_is_reported_and_ours_stays(value: bytes) -> None:
    plan = reconcile({KEY: record(1)}, found(value), NOW)
    assert (plan.take, plan.write) == ({}, [])
    assert plan.invalid[KEY]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (document(NAME, -1), "spec.seconds: Input should be greater than"),
        (
            {**json.loads(record(1).to_json()), "policy": document(NAME, -1) | {"version": 2}},
            "policy.spec.seconds: Input should be greater than",
        ),
        (document(NAME) | {"kind": "wish"}, "kind: is none of route, "),
    ],
)
def test_what_cannot_be_used_is_told_in_words_that_name_the_field(value: Any, said: str) -> None:
    told = reconcile({}, found(json.dumps(value).encode()), NOW).invalid[KEY]
    assert told.startswith(said)
    assert "\n" not in told
    assert "pydantic" not in told


def test_what_is_no_json_is_told_as_such() -> None:
    assert reconcile({}, found(b"{"), NOW).invalid[KEY].startswith("is no JSON: ")


values = st.one_of(
    st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=4).map(lambda s: record(*s)),
    st.sampled_from([document(NAME, 5), document(NAME, 6) | {"version": 2}, document(NAME, -1)]),
    st.binary(max_size=5),
)
ours = st.lists(st.sampled_from([1.0, 2.0]), max_size=4).map(
    lambda s: {KEY: record(*s)} if s else {}
)


@given(ours, st.one_of(st.none(), values))
def test_doing_what_was_planned_leaves_nothing_to_do(mine: dict[str, Stored], theirs: Any) -> None:
    remote = {} if theirs is None else found(theirs)
    plan = reconcile(mine, remote, NOW)
    for write in plan.write:
        remote = found(write.record, write.index + 1)
    mine = mine | plan.take | {w.record.key: w.record for w in plan.write}
    again = reconcile(mine, remote, NOW)
    assert (again.take, again.write) == ({}, [])
    assert again.invalid == plan.invalid


@given(ours, values)
def test_a_version_never_falls(mine: dict[str, Stored], theirs: Any) -> None:
    plan = reconcile(mine, found(theirs), NOW)
    for after in (*plan.take.values(), *(w.record for w in plan.write)):
        assert after.version >= (mine[KEY].version if mine else 0)
