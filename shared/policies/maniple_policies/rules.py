"""Documents prepared for matching: which of them match a task, in the order of precedence."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from maniple_policies.documents import InForce
from maniple_policies.matching import REGION, Matcher, matcher
from maniple_policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Where:
    """The process that decides: its instance and its region."""

    instance: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a task is selected by; `region` is its own or that of the process."""

    capability: str
    tenant: str
    labels: Mapping[str, str]
    region: str

    @classmethod
    def of_task(
        cls, capability: str, tenant: str, labels: Mapping[str, str], where: Where
    ) -> "Subject":
        """Describe a task as a process sees it."""
        return cls(capability, tenant, labels, labels.get(REGION) or where.region)


def share_of(*parts: str) -> float:
    """Return a number from 0 up to 100, evenly spread and always the same for the same parts."""
    hashed = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(hashed) / 2**64 * 100


@dataclass(frozen=True, slots=True)
class RolloutGate:
    """A rollout by task: the key of its policy and its percentage."""

    key: str
    percent: float

    def inside(self, tenant: str, task: str) -> bool:
        """Tell whether a task gets the new version."""
        return share_of(self.key, tenant, task) < self.percent


@dataclass(frozen=True, slots=True)
class Rule:
    """A document prepared for matching; None matches everything.

    `gate` is a rollout by task: the document applies to the tasks in it or, with `outside`, to the
    others.
    """

    policy: Policy
    capability: Matcher | None
    tenant: Matcher | None
    labels: tuple[tuple[str, Matcher], ...]
    region: Matcher | None
    gate: RolloutGate | None = None
    outside: bool = False

    def selects(self, task: Subject) -> bool:
        """Tell whether the selectors match a task, ignoring capability and gate."""
        if self.tenant is not None and not self.tenant(task.tenant):
            return False
        if self.region is not None and not self.region(task.region):
            return False
        labels = task.labels
        return all(name in labels and match(labels[name]) for name, match in self.labels)


def rules_of(one: InForce, where: Where) -> Iterator[Rule]:
    """Yield the rules of a document in a process."""
    rollout = one.policy.rollout
    if rollout is None or rollout.whole:
        yield from _rule(one.policy, where)
    elif rollout.by == "instance":
        inside = share_of(one.policy.key, where.instance) < rollout.percent
        chosen = one.policy if inside else one.before
        if chosen is not None:
            yield from _rule(chosen, where)
    else:
        gate = RolloutGate(one.policy.key, rollout.percent)
        yield from _rule(one.policy, where, gate=gate)
        if one.before is not None:
            yield from _rule(one.before, where, gate=gate, outside=True)


def _rule(
    policy: Policy, where: Where, *, gate: RolloutGate | None = None, outside: bool = False
) -> Iterator[Rule]:
    match = policy.match
    instance = matcher(match.instance)
    if instance is not None and not instance(where.instance):
        return
    labels = tuple((n, matcher(g) or (lambda _: True)) for n, g in match.labels.items())
    yield Rule(
        policy,
        matcher(match.capability),
        matcher(match.tenant),
        labels,
        matcher(match.region),
        gate,
        outside,
    )


def ordered(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules from the most specific down, equals in their given order."""
    return sorted(rules, key=lambda rule: rule.policy.match.specificity, reverse=True)  # stable
