"""The state of the processes of a local cluster, for people."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess

STYLES = {"ready": "green", "running": "green", "not ready": "yellow", "restarting": "yellow"}


@dataclass(frozen=True)
class ProcessStatus:
    """One row: `state` is `ready`, `not ready`, `running`, `restarting` or `ended`."""

    name: str
    pid: int
    state: str
    restarts: int
    url: str = ""


async def status_of(cluster: Cluster) -> list[ProcessStatus]:
    """Ask every process of the cluster for its state."""
    services = await asyncio.gather(*(_service_status(process) for process in cluster.processes))
    return [*(_child_status(child) for child in cluster.servers.children), *services]


def table_of(rows: Sequence[ProcessStatus]) -> Table:
    """Return the rows as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("process", "pid", "state", "restarts", "health"):
        table.add_column(column, justify="right" if column in {"pid", "restarts"} else "left")
    for row in rows:
        state = Text(row.state, STYLES.get(row.state, "red"))
        table.add_row(row.name, str(row.pid), state, str(row.restarts or ""), row.url)
    return table


def _child_status(child: Child) -> ProcessStatus:
    return ProcessStatus(child.spec.name, child.pid, child.state, child.restarts)


async def _service_status(process: ServiceProcess) -> ProcessStatus:
    state: str = process.child.state
    if process.child.running:
        state = "ready" if await process.ready() else "not ready"
    return ProcessStatus(
        process.instance, process.pid, state, process.child.restarts, f"{process.http}/health"
    )
