"""The telemetry of a process: logs, metrics, spans."""

from maniple_runtime.telemetry.logs import (
    about,
    configure_logging,
    dropped_lines,
    flush_logs,
    get_logger,
    set_level,
)
from maniple_runtime.telemetry.metrics import MAX_CHILDREN, OTHER, Metrics, process_metrics

__all__ = [
    "MAX_CHILDREN",
    "OTHER",
    "Metrics",
    "about",
    "configure_logging",
    "dropped_lines",
    "flush_logs",
    "get_logger",
    "process_metrics",
    "set_level",
]
