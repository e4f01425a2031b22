"""What to do when Consul and our own copy differ.

Versions only rise, and only a tombstone deletes. So a key that Consul lost, or has in an older
version, is written again from our copy; a newer one is adopted; one that was edited in place
becomes a new version; one that cannot be read, or that ties with another, is reported, and our copy
stays in force.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from maniple_policies import reasons_of
from maniple_policy.domain.conflicts import conflicts
from maniple_policy.domain.records import CONSUL, EDITED, Bare, Revision, Stored, read, succeed

_Above = tuple[datetime, int]
"""When an edit was found, and the version that its own must exceed."""
MOST_SAID = 500  # characters about what cannot be used
NEW = 0  # compare-and-set index of a key that must not exist yet


@dataclass(frozen=True, slots=True)
class Found:
    """A key of Consul: its value, and the index for compare-and-set."""

    value: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Write:
    """A record to be written to Consul if its key is still at `index`."""

    record: Stored
    index: int
    edit: bool = False
    """It makes a version of somebody's edit in Consul, and is not only a repair."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`take` comes into force here, `write` must first get into Consul, `invalid` says why not.

    `tied` are the invalid ones that are wrong only in combination with another.
    """

    take: dict[str, Stored] = field(default_factory=dict)
    write: list[Write] = field(default_factory=list)
    invalid: dict[str, str] = field(default_factory=dict)
    tied: dict[str, Stored] = field(default_factory=dict)

    def refuse(self, key: str, other: str) -> None:
        """Exclude a record, because it ties with another."""
        self.tied[key] = self.news[key]
        self.invalid[key] = f"{key} and {other} are equally specific and can match the same task"
        self.take.pop(key, None)
        self.write[:] = [write for write in self.write if write.record.key != key]

    @property
    def news(self) -> dict[str, Stored]:
        """What Consul holds that is not in force here yet."""
        return self.take | {write.record.key: write.record for write in self.write if write.edit}


def reconcile(
    ours: Mapping[str, Stored], theirs: Mapping[str, Found], now: datetime, floor: int = 0
) -> Plan:
    """Compare our copy with what Consul holds, both by `kind/name`.

    What was edited there gets a version above `floor`.
    """
    plan = Plan()
    for key, record in ours.items():
        if key not in theirs:
            plan.write.append(Write(record, NEW))
    for key, found in theirs.items():
        try:
            record_or_bare = read(key, found.value)
        except ValueError as error:
            why = reasons_of(error) if isinstance(error, ValidationError) else str(error)
            plan.invalid[key] = why[:MOST_SAID]
            continue
        _compare(plan, ours.get(key), record_or_bare, index=found.index, above=(now, floor))
    _refuse_ties(plan, ours, theirs)
    return plan


def _refuse_ties(plan: Plan, ours: Mapping[str, Stored], theirs: Mapping[str, Found]) -> None:
    """Exclude new records that tie with another; of two new ones the later one."""
    news = plan.news
    # Of what Consul holds as something unusable, processes may have different last good ones.
    usable = {key: record for key, record in ours.items() if key not in plan.invalid} | news
    in_force = {key: r.in_force for key, r in usable.items() if not r.deleted}
    pairs = conflicts(in_force, (key for key in news if key in in_force))
    refused = set[str]()
    for pair in sorted(pairs, key=lambda pair: (theirs[pair[0]].index, pair), reverse=True):
        if refused.isdisjoint(pair):
            plan.refuse(*pair)
            refused.add(pair[0])


def _compare(
    plan: Plan, ours: Stored | None, theirs: Stored | Bare, *, index: int, above: _Above
) -> None:
    now, floor = above
    if isinstance(theirs, Bare):
        edit = Revision(policy=theirs.policy, author=CONSUL, at=now, reason=EDITED)
        record = succeed(ours, edit, floor=max(floor, theirs.policy.version - 1))
        plan.write.append(Write(record, index, edit=True))
    elif ours is None or theirs.version > ours.version:
        plan.take[theirs.key] = theirs
    elif theirs.version < ours.version:
        plan.write.append(Write(ours, index))
    elif not theirs.says_the_same(ours):
        edit = theirs.revision.model_copy(update={"author": CONSUL, "at": now, "reason": EDITED})
        plan.write.append(Write(succeed(ours, edit, floor), index, edit=True))
