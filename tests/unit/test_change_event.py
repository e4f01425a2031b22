"""What is announced of a policy that has changed: its document too, if nothing else changed."""

from datetime import UTC, datetime

import pytest

from maniple_policies import PolicySet, parse_policy
from maniple_policy.change_event import PUSHED_BYTES, event_of
from maniple_policy.domain.records import Revision, Stored, succeed

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def record(*, value: str = "", deleted: bool = False) -> Stored:
    policy = parse_policy({"kind": "fallback", "name": "f", "spec": {"value": value}})
    stored = succeed(None, Revision(policy=policy, author="ann", at=NOW))
    if deleted:
        stored = succeed(stored, Revision(policy=policy, author="ann", at=NOW, deleted=True))
    return stored


def test_a_change_alone_carries_the_document_that_is_in_force() -> None:
    stored = record()
    event = event_of(stored, PolicySet([stored.policy], revision=7), NOW, alone=True)
    assert event.in_force == stored.in_force.as_json
    assert (event.kind, event.name, event.version) == ("fallback", "f", stored.version)


@pytest.mark.parametrize(
    ("stored", "alone"),
    [
        (record(), False),  # the digest is that of all of them together
        (record(value="x" * PUSHED_BYTES), True),
        (record(deleted=True), True),
    ],
)
def test_one_of_several_a_long_one_or_a_deletion_carries_none(stored: Stored, alone: bool) -> None:
    assert event_of(stored, PolicySet([], revision=7), NOW, alone=alone).in_force is None
