"""The memory of every process, and whether it is back in the end."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from maniple_cli.dev_cluster.cluster import Cluster
from process_memory import MIB, resident
from system.brokers import Broker

BROKER = "rabbitmq"
GROWTH, ROOM = 1.1, 10.0  # memory may grow by a tenth and so many MiB
# The broker takes some for each queue, stream and connection that it sees for the first time.
BROKER_GROWTH, BROKER_ROOM = 1.25, 40.0
# Not what is left behind: quorum queues keep what they logged in tables of up to 512 MiB before
# they write it, whatever is still in them, and the allocators keep what they may use again.
NOT_KEPT = ("quorum_ets", "allocated_unused", "reserved_unallocated")

Sizes = dict[str, float]
"""MiB by process."""


class Memory:
    """What each process had when it was looked at first, in its present life, and last."""

    def __init__(self, cluster: Cluster, broker: Broker) -> None:
        self._cluster = cluster
        self._broker = broker
        self._lives: dict[str, int] = {}
        self.resident: Callable[[int], float] = resident
        self.before: Sizes = {}
        self.now: Sizes = {}

    async def look(self) -> None:
        """Look at all; what was started since the last time is compared with how it is now."""
        lives = {p.instance: p.pid for p in self._cluster.processes if p.child.running}
        self.now |= {name: self.resident(pid) for name, pid in lives.items()}
        lives[BROKER] = self._broker.children[-1].pid
        self.now[BROKER] = await _of_broker(self._broker)
        fresh = {name for name, life in lives.items() if self._lives.get(name) != life}
        self.before |= {name: self.now[name] for name in fresh}
        self._lives |= lives

    @property
    def sizes(self) -> dict[str, tuple[float, float]]:
        """What each had at first and last, in MiB."""
        return {name: (size, self.now[name]) for name, size in self.before.items()}

    def grown(self) -> list[str]:
        """Tell which processes did not come back to about what they had."""
        return list(grown(self.before, self.now))


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    """Tell which have grown by more than they may."""
    for name, start in before.items():
        growth, room = (BROKER_GROWTH, BROKER_ROOM) if name == BROKER else (GROWTH, ROOM)
        if after[name] > start * growth + room:
            yield f"{name} has grown from {start:.0f} to {after[name]:.0f} MiB"


async def _of_broker(broker: Broker) -> float:
    """Return what the broker holds, as it tells itself: its process may be in a container."""
    return held(json.loads(await broker.control("status", "--formatter", "json"))["memory"])


def held(told: Mapping[str, Any]) -> float:
    """Return MiB from what a broker tells of its memory, in bytes by purpose."""
    purposes = {name: size for name, size in told.items() if isinstance(size, int)}
    return sum(size for name, size in purposes.items() if name not in NOT_KEPT) / MIB
