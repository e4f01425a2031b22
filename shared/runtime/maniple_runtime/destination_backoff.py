"""Backoff per destination: a lane or tier that refused or did not confirm. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from maniple.messages import Waiting
from maniple.timings import Queues
from maniple.topology import DELAY, DELAY_TIERS, tier_name
from maniple_runtime.publish.confirm import Key

MAX_FAILING = 4096


def _near(tier: float) -> list[float]:
    """Return all tiers by how close their length is to this one's, the longer first."""
    return sorted(DELAY_TIERS, key=lambda other: (round(abs(math.log(other / tier)), 9), -other))


TIER_KEYS: Final = {
    tier: tuple((DELAY.name, tier_name(other)) for other in _near(tier)) for tier in DELAY_TIERS
}
"""For each tier of `maniple.delay` its key, then those of the others, the nearest first."""


def tiers_for(tier: float, most: float) -> tuple[Key, ...]:
    """Return the keys of a tier and of the others for which a task has time, the nearest first."""
    own, *others = TIER_KEYS[tier]
    most = max(most, DELAY_TIERS[0])
    return (own, *(key for key in others if float(key[1]) <= most))


@dataclass(slots=True)
class _Failing:
    why: Waiting
    until: float
    rest: float
    tried: bool = False


class DestinationBackoff:
    """Which destinations are closed, and until when.

    A destination that refused is closed for a moment (`Queues.shut`); then one task may try it, and
    it stays closed to others for as long again, unless that task is accepted: then it is open. One
    that did not confirm is closed for longer (`Queues.stuck`), and twice as long each further time.
    At most `MAX_FAILING` are remembered (keys are names from outside); a forgotten one is open.
    """

    def __init__(self, times: Queues | None = None) -> None:
        self._times = times or Queues()
        self.failing: dict[Key, _Failing] = {}
        """What is or was shut lately: any other key is open, and nobody need ask."""

    def refusal(self, key: Key, now: float) -> Waiting | None:
        """Return why a task for `key` need not be tried now, or None if it may be."""
        known = self.failing.get(key)
        if known is None:
            return None
        if now < known.until:
            return known.why
        known.until = now + known.rest
        known.tried = True
        return None

    def first(self, keys: Sequence[Key], now: float) -> tuple[Key, float]:
        """Return the first of these keys that may be tried, and 0 seconds.

        If there is none, return the one that opens next, and after how many seconds.
        """
        for key in keys:
            if self.refusal(key, now) is None:
                return key, 0.0
        key = min(keys, key=lambda one: self.failing[one].until)
        return key, self.failing[key].until - now

    def shut(self, key: Key, why: Waiting, now: float) -> None:
        """Record that `key` refused a task, or did not confirm it."""
        if len(self.failing) >= MAX_FAILING and key not in self.failing:
            self.failing = {k: known for k, known in self.failing.items() if now < known.until}
            if len(self.failing) >= MAX_FAILING:
                return
        known = self.failing.get(key)
        rest = self._times.shut
        if why is Waiting.UNCONFIRMED:
            rest = self._times.stuck
            if known is not None and known.why is why:
                if not known.tried:
                    return  # what else was on its way when it became stuck
                rest = min(2 * known.rest, self._times.most_stuck)
        self.failing[key] = _Failing(why, now + rest, rest)

    def reopen(self, key: Key) -> None:
        """Record that `key` accepted a task."""
        self.failing.pop(key, None)
