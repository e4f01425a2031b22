"""The workload, all of it decided by a seed: tasks, their lengths, their submitters."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter

SHORTEST, LONGEST = 0.001, 5.0
LONGEST_COMPUTATION = 0.05  # two cores carry the whole cluster
COMPUTES, AFFINE, SHORT = "campaign.process", "campaign.affine", "campaign.short"
SPLIT, THREAD = "campaign.async", "campaign.thread"
TTL = 100.0
"""Seconds that tasks have; not `SHORT` ones, whose lane is stuck for longer than others may be."""
SHORTEST_ALONE = 0.003  # what takes less is of a capability of its own: bundles of it form
TOGETHER = 2.0  # seconds: so often the short tasks come, all at once
KEYS = 20
BUSY_CORES = 2.2  # what a busy row wants
RATE = 44.0  # tasks submitted per second


@dataclass(frozen=True, slots=True)
class Form:
    """How much work there is around a fault, in seconds.

    `lead` are the bounds of the work before it, `fallow` is that before and after it together.
    """

    lead: tuple[float, float]
    fallow: float

    def tasks(self, lasts: float) -> int:
        """Return how many tasks keep the cluster at work around a fault that lasts so long."""
        return round(RATE * (self.fallow + lasts))


FULL = Form(lead=(5.0, 7.0), fallow=12.0)  # the longest task has been started when it begins
BRIEF = Form(lead=(2.5, 3.5), fallow=8.0)


class Submitter(IntEnum):
    """Who submits a task."""

    CLIENT_ONE = 0
    CLIENT_TWO = 1
    PLAIN = 2
    """A program without anything of Maniple in it."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task that takes `seconds`, submitted `due` seconds after its row began."""

    id: str
    capability: str
    seconds: float
    submitter: Submitter
    due: float
    affinity: str | None = None

    @property
    def ttl(self) -> float | None:
        """For how many seconds it may wait and run; None if it does not say."""
        return None if self.capability == SHORT else TTL


def chance(seed: int, row: int, purpose: str) -> random.Random:
    """Return a source of randomness that is the same whenever this is asked for."""
    return random.Random(f"{seed}/{row}/{purpose}")


def planned(seed: int, row: int, count: int, *, busy: bool = False) -> list[PlannedTask]:
    """Return the tasks of a row in the order of their submission, at `RATE` on average.

    If it shall be `busy`, they compute more than two cores can.
    """
    rng = chance(seed, row, "tasks")
    tasks = _tasks(rng, f"{seed}-{row}", count, _computation if busy else _mixed)
    return sorted(tasks, key=attrgetter("due"))


def _tasks(
    rng: random.Random, prefix: str, count: int, draw: Callable[[random.Random], tuple[str, float]]
) -> Iterator[PlannedTask]:
    due = 0.0
    for number in range(count):
        due += rng.expovariate(RATE)
        capability, length = draw(rng)
        (submitter,) = rng.choices(tuple(Submitter), (40, 40, 20))
        when = math.ceil(due / TOGETHER) * TOGETHER if capability == SHORT else due
        key = f"key-{rng.randrange(KEYS)}" if capability == AFFINE else None
        name, seconds = f"{prefix}-{number}", round(length, 4)
        yield PlannedTask(name, capability, seconds, submitter, when, key)


def _mixed(rng: random.Random) -> tuple[str, float]:
    capabilities = (SPLIT, THREAD, COMPUTES, AFFINE)
    (capability,) = rng.choices(capabilities, (50, 30, 10, 10))
    longest = LONGEST_COMPUTATION if capability == COMPUTES else LONGEST
    # A long tail: equally many in each power of ten.
    length = math.exp(rng.uniform(math.log(SHORTEST), math.log(longest)))
    return SHORT if length < SHORTEST_ALONE else capability, length


def _computation(rng: random.Random) -> tuple[str, float]:
    return COMPUTES, rng.uniform(0.5, 1.5) * BUSY_CORES / RATE
