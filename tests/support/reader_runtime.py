"""What readers of the records need of a process's runtime."""

from types import SimpleNamespace
from typing import cast
from uuid import uuid4

from maniple.clock import SYSTEM_CLOCK
from maniple.timings import Timings
from maniple_runtime.runtime import Runtime
from maniple_runtime.telemetry import get_logger


def reader_runtime(url: str) -> Runtime:
    """Return a runtime that connects to `url`, each time under another name."""
    runtime = SimpleNamespace(
        settings=SimpleNamespace(broker_url=url, timings=Timings()),
        connection_name=lambda purpose: f"test.{purpose}.{uuid4()}",
        log=get_logger(),
        clock=SYSTEM_CLOCK,
    )
    return cast("Runtime", runtime)
