"""Logs of a process: one format for our own lines and the libraries'."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

from maniple.messages import Envelope
from maniple.tasks import current_task
from maniple.traceparent import trace_id_of
from maniple.urls import without_password
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.shown import shown
from maniple_runtime.telemetry.log_writer import LogWriter

_CHATTY = ("faststream", "aiormq", "aio_pika", "pamqp", "urllib3", "uvicorn", "asyncio")

_OF_LINES = ("exception", "stack")
EventDict = MutableMapping[str, Any]


def get_logger(name: str = "maniple") -> FilteringBoundLogger:
    """Return a logger; it uses `configure_logging`, also when that is called later."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def about(envelope: Envelope) -> dict[str, str]:
    """Return the fields of a log line about a task."""
    said = {"task_id": envelope.id, "capability": envelope.capability}
    if envelope.traceparent is not None:
        said["trace_id"] = trace_id_of(envelope.traceparent)
    return said


def _add_task(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the task whose handler logs a line, whatever logger it uses."""
    task = current_task.get()
    if task is None:
        return event
    said = {"task_id": task.task_id, "capability": task.capability, "attempt": task.attempt}
    if task.traceparent is not None:
        said["trace_id"] = trace_id_of(task.traceparent)
    return {**said, **event}


def _hide_passwords(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value and "@" in value:
            event[key] = without_password(value)
    return event


def _show(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key in _OF_LINES else [value]
            event[key] = "\n".join(map(shown, lines))
    return event


def configure_logging(
    settings: ServiceSettings, stream: TextIO | None = None, *, patience: float = 0.0
) -> None:
    """Send structlog and the standard library's logging, in one format, to `stream`.

    Without one, to standard error, by a thread, with `patience`: see `LogWriter`.
    """
    about = {"service": settings.service, "instance": settings.instance}

    def say_who(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {**about, **event}

    common: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_task,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        last: list[structlog.types.Processor] = [
            say_who,
            structlog.processors.format_exc_info,
            _hide_passwords,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        # A pretty traceback would show local variables, and what is secret in them.
        screen = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last = [structlog.processors.format_exc_info, _hide_passwords, _show, screen]

    handler = _standard_error(patience) if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in _CHATTY:
        chatty = logging.getLogger(name)
        chatty.handlers.clear()  # FastStream brings a handler and a form of its own
        chatty.propagate = True
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    set_level(settings.log_level)


def _standard_error(patience: float) -> logging.Handler:
    if sys.stderr is None:  # it was closed when the process began
        return logging.NullHandler()
    try:
        return LogWriter(sys.stderr.fileno(), patience=patience)
    except (OSError, ValueError):  # what stands in for it, as in a test
        return logging.StreamHandler(sys.stderr)


def flush_logs() -> None:
    """Wait until queued lines are written, at most a second."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def dropped_lines() -> int:
    """Return how many lines this process has dropped."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, LogWriter))


def set_level(name: str) -> None:
    """Log from this level on: everything that `configure_logging` has set up."""
    level = logging.getLevelNamesMapping()[name.upper()]
    logging.getLogger().setLevel(level)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
