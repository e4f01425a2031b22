"""Processor time and memory of the processes that take part, by group, from /proc.

A group's processes count with all that descend from them: the broker's script starts the virtual
machine, and an agent its workers. The clock of /proc ticks every 10 ms, so runs last seconds.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from maniple_cli.dev_cluster.cluster import Cluster

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
BROKER = "broker"
CONTROL = "registry, policy, Consul"
GROUPS = {"dispatcher": "dispatchers", "agent": "agents", "registry": CONTROL, "policy": CONTROL}


@dataclass(frozen=True)
class Usage:
    """Processor seconds used so far, and MiB resident now."""

    seconds: float
    mebibytes: float

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Read the usage of a process; nothing if it has gone."""
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            pages = int((PROC / str(pid) / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return cls(0.0, 0.0)
        return cls((int(fields[11]) + int(fields[12])) / TICKS, pages * PAGE / 2**20)


def parents() -> dict[int, int]:
    """Return the parent of each process of the machine."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def family(roots: Iterable[int], parent_of: Mapping[int, int]) -> set[int]:
    """Return the `roots` and all that descend from them."""
    found = set(roots)
    while more := {pid for pid, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found


def spent(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the processor seconds that each group has used so far."""
    parent_of = parents()
    return {
        group: sum(Usage.of(pid).seconds for pid in family(roots, parent_of))
        for group, roots in groups.items()
    }


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each group has used between two readings."""
    return {group: max(0.0, after[group] - seconds) for group, seconds in before.items()}


def broker_group(cluster: Cluster) -> dict[str, list[int]]:
    """Return the process of a cluster's own broker."""
    children = cluster.servers.children
    return {BROKER: [child.pid for child in children if child.spec.name == "rabbitmq"]}


def maniple_groups(cluster: Cluster) -> dict[str, list[int]]:
    """Return our own processes by group; Consul counts with those that need it."""
    found: dict[str, list[int]] = {group: [] for group in GROUPS.values()}
    for process in cluster.processes:
        found[GROUPS[process.service]].append(process.pid)
    found[CONTROL] += [c.pid for c in cluster.servers.children if c.spec.name == "consul"]
    return found


def resident(cluster: Cluster) -> dict[str, float]:
    """Return the MiB resident of each process of ours, by instance."""
    return {
        process.instance: round(Usage.of(process.pid).mebibytes, 1) for process in cluster.processes
    }
