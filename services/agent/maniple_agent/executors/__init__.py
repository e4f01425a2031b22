"""Where handlers run: a loop of their own, threads, worker processes. Never the connection loop."""

from maniple_agent.executors.executor import Executor, Spawn
from maniple_agent.executors.handler_loop import LoopExecutor
from maniple_agent.executors.processes import ProcessExecutor
from maniple_agent.executors.threads import ThreadExecutor

__all__ = [
    "Executor",
    "LoopExecutor",
    "ProcessExecutor",
    "Spawn",
    "ThreadExecutor",
]
