"""Where handlers run: a loop of their own, threads, worker processes. Never the connection loop."""

from maniple_agent.executors.handler_loop import LoopExecutor
from maniple_agent.executors.jobs import Executor, Job, Report, Spawn
from maniple_agent.executors.processes import ProcessExecutor
from maniple_agent.executors.threads import ThreadExecutor

__all__ = [
    "Executor",
    "Job",
    "LoopExecutor",
    "ProcessExecutor",
    "Report",
    "Spawn",
    "ThreadExecutor",
]
