"""Which agent the tasks of one affinity key go to. Pure.

Rendezvous hashing: of the agents that serve a lane with affinity, the one whose hash with the key
is the highest. So every dispatcher that knows the same agents chooses the same, and an agent that
leaves moves only its own keys.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

from maniple.messages import Envelope
from maniple.topology import SUSPECT_AFTER
from maniple_runtime.control.incarnations import order

MAX_KNOWN = 20_000
_MASK = 2**64 - 1


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _mix(number: int) -> int:
    """Spread 64 bits over 64 bits (the finaliser of splitmix64)."""
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31


def affinity_lanes(lanes: Iterable[str], affinity: Iterable[str]) -> frozenset[str]:
    """Return those of an agent's lanes that are of the capabilities it serves with affinity."""
    served = set(affinity)
    return frozenset(lane for lane in lanes if lane.partition("@")[0] in served)


@dataclass(frozen=True, slots=True)
class _Life:
    """The latest incarnation of an agent that was heard of."""

    incarnation: str
    lanes: frozenset[str] = frozenset()
    has_queue: bool = True
    """It, or one before it, has or may have a queue of its own."""
    takes: bool = True
    wire: int = 1
    """Up to which form it reads what others of ours send (`maniple.messages.WIRE`)."""
    here: bool = True
    """Neither failed nor left."""

    @property
    def reads(self) -> bool:
        """Whether it reads a queue of its own, or finishes what it read."""
        return self.here and (bool(self.lanes) or not self.takes)


class Assignment:
    """Who serves what with affinity, as the agents' events tell it.

    Events may come twice, late and out of order: an incarnation (they sort by age) that is gone
    stays gone, and what is said of one before the latest changes nothing.
    """

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}
        self._serving: dict[str, dict[str, int]] = {}  # by lane: each agent with its hash
        self._withheld: set[str] = set()
        self._wire: int | None = None  # until something changes

    @property
    def here(self) -> list[str]:
        """Agents that are neither failed nor left."""
        return [agent for agent, life in self._lives.items() if life.here]

    @property
    def wire(self) -> int:
        """Up to which form all agents read that are here; the first while nobody is known."""
        if self._wire is None:
            self._wire = min((life.wire for life in self._lives.values() if life.here), default=1)
        return self._wire

    @property
    def readers(self) -> list[str]:
        """Agents that read a queue of their own."""
        return [agent for agent, life in self._lives.items() if life.reads]

    def reads(self, agent: str) -> bool:
        """Tell whether an agent reads a queue of its own, or is about to finish what it read."""
        life = self._lives.get(agent)
        return life is not None and life.reads

    def registered(
        self,
        agent: str,
        incarnation: str,
        lanes: frozenset[str],
        at: float = math.inf,
        *,
        wire: int = 1,
    ) -> bool:
        """Record which lanes an incarnation serves with affinity; `at` is the Unix second.

        It reads messages up to the form `wire`.

        Tells whether an earlier one, which served more, may have left a queue behind.
        """
        known = self._lives.get(agent)
        if known is not None:
            stale = order(incarnation, at) < order(known.incarnation, at)
            ended = incarnation == known.incarnation and not (known.here and known.takes)
            if stale or ended:
                return False
        has_queue = bool(lanes) or (known is not None and known.has_queue)
        self._keep(agent, _Life(incarnation, lanes, has_queue, wire=wire))
        return has_queue and not lanes

    def draining(self, agent: str, incarnation: str) -> None:
        """Record that an incarnation takes nothing new."""
        known = self._lives.get(agent)
        if known is not None and known.here and known.incarnation == incarnation:
            self._keep(agent, replace(known, lanes=frozenset(), takes=False))

    def gone(self, agent: str, incarnation: str, at: float = math.inf) -> bool:
        """Record that an incarnation failed or left; tell whether that may leave a queue behind."""
        known = self._lives.get(agent)
        if known is not None and order(incarnation, at) < order(known.incarnation, at):
            return False
        has_queue = known is None or known.has_queue
        self._keep(agent, _Life(incarnation, has_queue=has_queue, takes=False, here=False))
        return has_queue

    def missing(self, agent: str, *, marked: bool) -> bool:
        """Record that nobody knows the agent; tell whether that may leave a queue behind.

        Unlike one that is gone it comes back as soon as it is heard of. `marked` says that it had
        a queue once.
        """
        known = self._lives.get(agent)
        has_queue = marked or (known is not None and known.has_queue)
        if known is not None and known.here:
            self._keep(agent, _Life("", has_queue=has_queue, takes=False, here=False))
        return has_queue

    def withhold(self, agent: str) -> None:
        """Choose an agent for nothing until `release`, though it may serve again."""
        self._withheld.add(agent)

    def release(self, agent: str) -> None:
        """Undo `withhold`."""
        self._withheld.discard(agent)

    def choose(self, envelope: Envelope) -> str | None:
        """Return the agent whose own queue a task goes to, or None: the lane of all.

        A suspect (it lost agents) goes to its lane's suspects, whatever its affinity.
        """
        if envelope.affinity is None or envelope.lost >= SUSPECT_AFTER:
            return None
        agents = self._serving.get(envelope.lane)
        if agents and self._withheld:
            agents = {agent: agents[agent] for agent in agents.keys() - self._withheld}
        if not agents:
            return None
        number = _hash(f"{envelope.tenant}\0{envelope.capability}\0{envelope.affinity}")
        return max(agents.items(), key=lambda agent: (_mix(agent[1] ^ number), agent[0]))[0]

    def may_have(self, lanes: Iterable[str]) -> list[str]:
        """Return the agents in whose own queues tasks of these lanes may wait.

        One that drains, or whose queue is being emptied, says no more which lanes it had.
        """
        looked_for = frozenset(lanes)
        here = (agent for agent, life in self._lives.items() if self._may_have(life, looked_for))
        return sorted({*here, *self._withheld})

    def _may_have(self, life: _Life, lanes: frozenset[str]) -> bool:
        return life.here and life.has_queue and not (life.lanes and life.lanes.isdisjoint(lanes))

    def lanes(self, agent: str) -> frozenset[str]:
        """Return the lanes that an agent serves with affinity now."""
        life = self._lives.get(agent)
        return life.lanes if life else frozenset()

    def serving(self, lane: str) -> list[str]:
        """Return the agents that serve a lane with affinity now."""
        return list(self._serving.get(lane, ()))

    def _keep(self, agent: str, life: _Life) -> None:
        before = self._lives.pop(agent, None)  # in the dict, the latest change comes last
        self._lives[agent] = life
        self._wire = None
        for lane in before.lanes - life.lanes if before else ():
            del self._serving[lane][agent]
            if not self._serving[lane]:
                del self._serving[lane]
        for lane in life.lanes:
            self._serving.setdefault(lane, {})[agent] = _hash(agent)
        if len(self._lives) > MAX_KNOWN:
            self._forget()

    def _forget(self) -> None:
        """Forget agents that are long gone: nobody speaks of them any more."""
        for agent in [a for a, life in self._lives.items() if not life.here][: MAX_KNOWN // 10]:
            del self._lives[agent]
