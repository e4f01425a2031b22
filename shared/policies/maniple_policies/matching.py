"""Which tasks a policy matches, and which of two policies is more specific.

**Which document wins.** Among the documents of a kind that match a task, the most specific: the one
with more selectors; of equals, the one with more selectors without wildcards; then the one with
more literal characters; then the one that selects by capability, by tenant, by labels, by region,
by instance, in this order. Two that are still equal and that one task can match are a tie, which is
refused when the second is applied (`ties`); should one get into a set all the same, the first name
in the alphabet wins.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import zip_longest
from typing import Annotated, Any, Final, Protocol, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

ANY = "*"
ONE = "?"
REGION = "region"

MATCHERS_KEPT = 8192
MOST_STARS = 4
MOST_PLACES = 1000
"""Places in all globs together that are tried for one text that all of them match; see `_walk`."""
NEW: Final = {"new": True}
"""Validation context of a document that was not in force before."""


def _has_few_stars(glob: str, info: ValidationInfo) -> str:
    # What an earlier release has taken stays in force.
    if info.context == NEW and glob.count(ANY) > MOST_STARS:
        raise ValueError(f"has more than {MOST_STARS} stars")
    return glob


Glob = Annotated[
    str, StringConstraints(min_length=1, max_length=256), AfterValidator(_has_few_stars)
]
Matcher = Callable[[str], object]


class StrictModel(BaseModel):
    """Frozen, and strict about names and numbers: true is not 1, but a text may be a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _takes_no_truth_for_a_number(cls, value: Any) -> Any:
        if not isinstance(value, dict) or bool not in map(type, value.values()):
            return value
        numbers = {name for name, field in cls.model_fields.items() if _is_number(field.annotation)}
        return {
            name: _Truth(each) if isinstance(each, bool) and name in numbers else each
            for name, each in value.items()
        }


class _Truth:
    """A boolean where a number is expected: it is refused."""

    def __init__(self, value: bool) -> None:  # noqa: FBT001 - its one argument
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _is_number(annotation: Any) -> bool:
    """Tell whether a type is a number, perhaps as one of several alternatives."""
    return annotation in {int, float} or any(map(_is_number, get_args(annotation)))


class Match(StrictModel):
    """Which tasks a policy is for: globs (`*`, `?`), all of which must match.

    A missing label matches nothing, not even `*`. A task's region is its label `region`, without it
    the region of the process that decides. `instance` is the name of that process.
    """

    capability: Glob = ANY
    tenant: Glob = ANY
    labels: Mapping[str, Glob] = Field(default_factory=dict, max_length=32)
    region: Glob = ANY
    instance: Glob = ANY

    @cached_property
    def specificity(self) -> tuple[int, ...]:
        """A key that sorts above that of every less specific match."""
        globs = [self.capability, self.tenant, *self.labels.values(), self.region, self.instance]
        used = [glob for glob in globs if glob != ANY]
        literal = [len(glob) - glob.count(ANY) - glob.count(ONE) for glob in used]
        return (
            len(used) + sum(glob == ANY for glob in self.labels.values()),
            sum(not is_glob(glob) for glob in used),
            sum(literal),
            int(self.capability != ANY),
            int(self.tenant != ANY),
            len(self.labels),
            int(self.region != ANY),
        )

    def overlaps(self, other: "Match") -> bool:
        """Tell whether there can be a task, and a process, that both match."""
        return (
            globs_overlap(self.capability, other.capability)
            and globs_overlap(self.tenant, other.tenant)
            and globs_overlap(self.instance, other.instance)
            and all(
                globs_overlap(self.labels[name], other.labels[name])
                for name in self.labels.keys() & other.labels
                if name != REGION
            )
            and globs_overlap(self.region, other.region, *self.region_labels, *other.region_labels)
        )

    @property
    def region_labels(self) -> tuple[str, ...]:
        """Return the globs for the label `region`, where it is the region of the task."""
        glob = self.labels.get(REGION, ANY)
        # An empty label matches only stars, and such a task is of the region of the process.
        return (glob,) if glob.strip(ANY) else ()


class Selecting(Protocol):
    """A document of a kind, with a name and a match."""

    @property
    def kind(self) -> Any:
        """Its kind."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def match(self) -> Match:
        """What it selects."""
        ...


def ties(document: Selecting, others: Iterable[Selecting]) -> Iterator[Selecting]:
    """Yield the other documents that match the same tasks and are equally specific."""
    for other in others:
        if other.kind != document.kind or other.name == document.name:
            continue
        same = other.match.specificity == document.match.specificity
        if same and other.match.overlaps(document.match):
            yield other


def is_glob(text: str) -> bool:
    """Tell whether a selector has wildcards."""
    return ANY in text or ONE in text


@lru_cache(MATCHERS_KEPT)  # every change makes a new set, of which nearly all is as it was
def matcher(glob: str) -> Matcher | None:
    """Return a function that matches texts; None for a glob that matches everything."""
    if glob == ANY:
        return None
    if not is_glob(glob):
        return glob.__eq__
    return re.compile(fnmatch.translate(glob.replace("[", "[[]"))).match


def globs_overlap(*globs: str) -> bool:
    """Tell whether some text matches all globs, in time linear in their length.

    Where no glob is free of stars and question marks, and several have stars, the search is
    bounded; if it ends undecided, that counts as an overlap.
    """
    asked = {*globs} - {ANY}
    if len(asked) < 2:  # noqa: PLR2004 - nothing to compare it with
        return True
    starred = [glob.split(ANY) for glob in asked if ANY in glob]
    whole = [glob for glob in asked if ANY not in glob]
    begin = _merged(parts[0] for parts in starred)
    end = _merged(parts[-1][::-1] for parts in starred)
    if begin is None or end is None:
        return False
    # What they have between can be said one after the other: the stars of the others stand for it.
    return not whole or _overlap_in_one_size(whole, starred, begin, end)


def _overlap_in_one_size(
    whole: Sequence[str], starred: Sequence[Sequence[str]], begin: str, end: str
) -> bool:
    """Tell whether a text matches globs without stars and these prefixes and suffixes."""
    size = len(whole[0])
    if any(len(parts[0]) + len(parts[-1]) > size for parts in starred):
        return False
    text = _merged([*whole, begin, end.ljust(size, ONE)[::-1]])
    if text is None or any(len(glob) != size for glob in whole):
        return False
    free = [parts for parts in starred if any(parts[1:-1])]
    if not all(_holds(text, parts) for parts in free):
        return False
    return len(free) < 2 or ONE not in text or _walk(text, *map(ANY.join, free))  # noqa: PLR2004 - one alone may have all of it


def _merged(texts: Iterable[str]) -> str | None:
    """Return the merged prefixes; None if two of them contradict each other."""
    merged = ""
    for text in texts:
        longer, shorter = (merged, text) if len(merged) > len(text) else (text, merged)
        if not longer.startswith(shorter):
            if not _fits(longer[: len(shorter)], shorter):
                return None
            pairs = zip_longest(longer, shorter, fillvalue=ONE)
            longer = "".join(b if a == ONE else a for a, b in pairs)
        merged = longer
    return merged


def _holds(text: str, parts: Sequence[str]) -> bool:
    """Tell whether a text with free letters can contain these parts, in this order, disjoint."""
    place, end = len(parts[0]), len(text) - len(parts[-1])
    for part in parts[1:-1]:
        while place + len(part) <= end and not _fits(text[place : place + len(part)], part):
            place += 1
        place += len(part)
    return place <= end


def _fits(text: str, part: str) -> bool:
    return all(a == b or ONE in (a, b) for a, b in zip(text, part, strict=True))


def _walk(*globs: str) -> bool:
    """Walk through all globs in parallel, as automata that read the same text."""
    reached = {(0,) * len(globs)}
    waiting = list(reached)
    while waiting and len(reached) < MOST_PLACES:
        places = waiting.pop()
        rests = [glob[place:] for glob, place in zip(globs, places, strict=True)]
        if not any(rest.strip(ANY) for rest in rests):
            return True
        steps = {
            (*places[:n], place + 1, *places[n + 1 :])  # this star stands for nothing more
            for n, place in enumerate(places)
            if rests[n].startswith(ANY)
        }
        letters = {rest[:1] for rest in rests} - {ANY, ONE}
        if "" not in letters and len(letters) <= 1:  # all can read the same letter
            steps.add(tuple(p + (rest[0] != ANY) for p, rest in zip(places, rests, strict=True)))
        waiting += steps - reached
        reached |= steps
    return bool(waiting)
