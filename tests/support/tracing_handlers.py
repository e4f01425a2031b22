"""Handlers that make spans of their own, the way any program does."""

import logging
import time
from pathlib import Path
from typing import Any

from opentelemetry import trace

from maniple import TaskContext, task

tracer = trace.get_tracer("shop")


@task("trace.loop")
async def on_loop(payload: Any) -> Any:
    with tracer.start_as_current_span("look up", attributes={"executor": "loop"}):
        return payload


@task("trace.thread")
def in_thread(payload: Any) -> Any:
    with tracer.start_as_current_span("look up", attributes={"executor": "thread"}):
        return payload


@task("trace.process", executor="process")
def in_process(payload: Any) -> Any:
    with tracer.start_as_current_span("look up", attributes={"executor": "process"}):
        return payload


@task("trace.log_loop")
async def logs_on_loop(payload: Any, context: TaskContext) -> Any:
    return _logs(payload, context)


@task("trace.log_thread")
def logs_in_thread(payload: Any, context: TaskContext) -> Any:
    return _logs(payload, context)


@task("trace.log_process", executor="process")
def logs_in_process(payload: Any, context: TaskContext) -> Any:
    return _logs(payload, context)


def _logs(payload: Any, context: TaskContext) -> Any:
    logging.getLogger("shop").warning("by the standard library")
    context.logger.info("by its context")
    return payload


@task("trace.flaky", max_attempts=2)
async def flaky(_payload: Any, context: TaskContext) -> int:
    if context.attempt == 1:
        raise RuntimeError("not yet")
    return context.attempt


@task("trace.fail")
async def fails(_payload: Any) -> Any:
    raise ValueError("no")


@task("trace.hold", timeout=300)
def hold(payload: str) -> str:
    """Run while there is a file of that name."""
    while Path(payload).exists():
        time.sleep(0.02)
    return payload
