"""Processes of a shared cluster that die for good, and are restarted at the end of a test."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple_cli.dev_cluster.cluster import ServiceProcess
from waiting import wait_until

TIME_SCALE = 0.5  # of the shared cluster
SLOTS = 4  # of each agent of the shared cluster, on its loop and as many in threads
QUIET = 9.5  # seconds after which its dispatchers remove a queue that nobody needs
READY_SECONDS = 30.0


async def kill(process: ServiceProcess) -> None:
    """Kill a process for good, until `revive`."""
    process.child.restart = False
    os.kill(process.pid, signal.SIGKILL)
    await wait_until(lambda: not process.child.running)


async def revive(*processes: ServiceProcess) -> None:
    """Start processes that have ended, and restart them whenever they die."""
    for process in processes:
        if not process.child.running:
            await process.child.start_process()
        process.child.restart = True
    for process in processes:
        await wait_until(process.ready, READY_SECONDS)


@asynccontextmanager
async def mortal(*processes: ServiceProcess) -> AsyncIterator[None]:
    """Keep dead processes dead within the block; after it they run again, however it ends."""
    for process in processes:
        process.child.restart = False
    try:
        yield
    finally:
        await revive(*processes)
