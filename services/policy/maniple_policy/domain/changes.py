"""What changes would make of the policies, or why they are refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maniple_policy.domain.conflicts import conflicts
from maniple_policy.domain.records import Revision, Stored, succeed
from maniple_policy.errors import PolicyTie, UnknownPolicy, VersionConflict

AT_ONCE = 60  # operations of a transaction; Consul takes 64, and 512 KiB
AT_ONCE_BYTES = 400 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """A revision to be stored; `expect` is the version that it replaces, 0 for none."""

    change: Revision
    expect: int | None = None

    @property
    def key(self) -> str:
        """`kind/name`."""
        return self.change.policy.key


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of one change; `record` is `before` if that says the same already."""

    before: Stored | None
    record: Stored

    @property
    def changed(self) -> bool:
        """Whether anything is to be stored."""
        return self.record is not self.before


def steps(
    records: Mapping[str, Stored],
    wanted: Iterable[Wanted],
    refused: Mapping[str, Stored],
    floor: int = 0,
) -> list[Step]:
    """Return the effects of changes, all of them together.

    `refused` records are in Consul and not in force because of a tie: a change still must not tie
    with another document, or processes that start anew would disagree with the others. With a
    `floor`, processes run a later set than `records` are: a version above it is made, even with the
    same content, so that processes accept it. Raises `VersionConflict`, `UnknownPolicy` for the
    tombstone of a missing policy, `PolicyTie`.
    """
    found = list[Step]()
    for want in wanted:
        found.append(_step(records.get(want.key), want, floor))
        floor = 0 if found[-1].changed else floor  # one above it raises the whole set
    after = {**records, **refused, **{step.record.key: step.record for step in found}}
    in_force = {key: record.in_force for key, record in after.items() if not record.deleted}
    changed = [s.record.key for s in found if s.changed and not s.record.deleted]
    for one, other in conflicts(in_force, changed):
        raise PolicyTie(one, other)
    return found


def _step(before: Stored | None, wanted: Wanted, floor: int) -> Step:
    present = 0 if before is None or before.deleted else before.version
    if wanted.change.deleted and not present:
        raise UnknownPolicy(wanted.key)
    if wanted.expect is not None and wanted.expect != present:
        raise VersionConflict(wanted.key, wanted.expect, present)
    if before is not None and before.says_the_same(wanted.change) and not floor:
        return Step(before, before)
    return Step(before, succeed(before, wanted.change, floor))


def fitting(found: Sequence[Step]) -> list[Step]:
    """Return the first steps, as many as fit into one transaction of Consul."""
    size, some = 0, list[Step]()
    for step in found[:AT_ONCE]:
        size += len(step.record.to_json()) * 4 // 3  # it goes there as base64
        if some and size > AT_ONCE_BYTES:
            break
        some.append(step)
    return some
