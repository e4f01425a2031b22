"""From arguments to the bytes of a task, checked with the rules that the dispatcher applies.

And the span of a submission, in the trace that the submitting program is in: one that has not
loaded OpenTelemetry has no span, and pays nothing here.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import pydantic
from msgspec import Raw
from msgspec.structs import replace

from maniple import codec, spans
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_BODY, MAX_DEPTH, NULL, RESERVED_FIELDS, Task
from maniple.tasks import is_capability
from maniple.topology import TASKS
from maniple.traceparent import TraceContext, written
from maniple.values import names_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

_API = "opentelemetry.trace"

# A payload stands in a task, which stands in an array.
_PAYLOAD_DEPTH = MAX_DEPTH - 2


class SubmitOptions(TypedDict, total=False):
    """Options of a submission; those that are absent are left to the policies.

    `timeout` is seconds for one attempt, `ttl` seconds from when it is taken, `deadline` a moment
    with a time zone. `labels` select policies; tasks with one `affinity` go to one agent.
    """

    tenant: str
    labels: Mapping[str, str]
    affinity: str | None
    max_attempts: int | None
    timeout: float | None
    deadline: datetime | None
    ttl: float | None
    traceparent: str | None


_OPTIONS = tuple(SubmitOptions.__annotations__)


def make_task(capability: str, task_id: str, payload: Raw, options: SubmitOptions) -> Task:
    """Return the task that the arguments describe, its values not yet checked.

    Raises `InvalidMessage` for an option that there is not: nobody would hear of it any more.
    """
    if unknown := [name for name in options if name not in _OPTIONS]:
        raise InvalidMessage(
            ErrorCode.UNKNOWN_FIELD,
            f"there is no option {', '.join(map(repr, unknown))}: there is {', '.join(_OPTIONS)}",
        )
    fields: dict[str, Any] = {**options, "labels": _labels(options.get("labels"))}
    return Task(capability=capability, id=task_id, payload=payload, **fields)


def _labels(given: Mapping[str, str] | None) -> dict[str, str]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"labels must be a mapping, not {type(given).__name__}"
        )
    return dict(given or {})


def encode_payload(value: Any) -> Raw:
    """Return `value` as JSON: JSON values, dataclasses, msgspec structs and pydantic models.

    Fields with an alias go by that, as in outputs; of dataclasses in a list or a dict only where a
    dataclass has that. Times become RFC 3339, bytes base64. Raises `InvalidMessage` for anything
    else, for NaN and Infinity, and for what nests too deep.
    """
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = _by_alias(value)
        raw = _encode(value)
        if b"null" in raw:
            _refuse_nan(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"the payload is no JSON value: {error}"
        ) from error
    if codec.exceeds_depth(raw, _PAYLOAD_DEPTH):
        raise InvalidMessage(ErrorCode.UNDECODABLE, f"nested deeper than {MAX_DEPTH}")
    return Raw(raw)


def encode_task(task: Task) -> bytes:
    """Return the bytes of a task. Raises `InvalidMessage` when it is over 1 MiB."""
    body = codec.encode(task)
    if len(body) > MAX_BODY:
        raise InvalidMessage(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"a task is at most {MAX_BODY:,} bytes, this one has {len(body):,}",
        )
    return body


def check_task(task: Task) -> None:
    """Raise `InvalidMessage` unless the dispatcher would take the task, and can tell it by name.

    A blank name, which it would take, is somebody's variable that is not set.
    """
    given: object = task.capability
    if not isinstance(given, str) or not is_capability(given):
        raise InvalidMessage(
            ErrorCode.INVALID_TASK,
            f"{task.capability!r} is no capability: a dotted lower-case name such as 'text.stats'",
        )
    for name in ("timeout", "ttl"):
        seconds = getattr(task, name)
        if isinstance(seconds, float) and not math.isfinite(seconds):
            raise InvalidMessage(ErrorCode.INVALID_TASK, f"{name} is {seconds}: leave it out")
    if task.deadline is not None and task.ttl is not None:
        raise InvalidMessage(ErrorCode.INVALID_TASK, "give deadline or ttl, not both")
    for name in RESERVED_FIELDS:
        if getattr(task, name) != NULL:
            raise InvalidMessage(ErrorCode.NOT_SUPPORTED, f"{name} is reserved for later")
    try:
        body = encode_task(task)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidMessage(ErrorCode.INVALID_TASK, f"an option is wrong: {error}") from error
    (checked,) = codec.decode_submission(body)
    if isinstance(checked, InvalidMessage):
        raise checked
    _check_names(task, checked)


def _check_names(task: Task, checked: Task) -> None:
    """Raise `InvalidMessage` for what is no name of a task as its result will have it."""
    if (checked.id, checked.tenant) != (task.id, task.tenant):  # as of a UUID: it becomes text
        name = "id" if checked.id != task.id else "tenant"
        kind = type(getattr(task, name)).__name__
        raise InvalidMessage(ErrorCode.INVALID_TASK, f"{name} must be a string, not {kind}")
    if (checked.id is not None and checked.id.isspace()) or checked.tenant.isspace():
        name = "tenant" if checked.tenant.isspace() else "id"
        why = f"{name} is blank: give one with a letter in it, or leave it out"
        raise InvalidMessage(ErrorCode.INVALID_TASK, why)


def _by_alias(value: Any) -> Any:
    """Return a dataclass, and those in it, with the names that JSON has for their fields."""
    if isinstance(value, dict):
        return {key: _by_alias(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_by_alias(inner) for inner in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return {alias: _by_alias(getattr(value, name)) for name, alias in names_of(type(value)).items()}


def _hook(value: Any) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = msgspec.json.Encoder(enc_hook=_hook).encode


def _refuse_nan(value: Any) -> None:
    # msgspec writes null for NaN and Infinity; the standard library's encoder can refuse them.
    json.dumps(msgspec.to_builtins(value, enc_hook=_hook, str_keys=True), allow_nan=False)


class SubmitSpans:
    """Begins the span of each submission; ends it when the broker has confirmed the task."""

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        """Make spans with `tracer`; without one, only where the program is in a span."""
        self._tracer = tracer

    def begin(self, task: Task) -> "tuple[Task, Span | None]":
        """Return a task in the trace of its submission; one that has a trace keeps it."""
        api: Any = sys.modules.get(_API)
        if api is None or task.traceparent is not None:
            return task, None
        tracer, here = self._tracer, api.get_current_span().get_span_context()
        if tracer is None and not here.is_valid:
            return task, None
        if tracer is None and not here.trace_flags.sampled:
            return replace(task, traceparent=_traceparent(here)), None
        span = (tracer or api.get_tracer("maniple")).start_span(
            spans.SEND_TASK, kind=api.SpanKind.PRODUCER, attributes=_said(task)
        )
        made = span.get_span_context()
        return replace(task, traceparent=_traceparent(made)) if made.is_valid else task, span


def end_span(span: "Span", error: Exception | None) -> None:
    """End the span of a submission that the broker has confirmed, or that failed."""
    if error is not None:
        api: Any = sys.modules[_API]
        span.set_attribute(spans.ERROR_TYPE, type(error).__name__)
        span.set_status(api.Status(api.StatusCode.ERROR))
    span.end()


def _traceparent(context: "SpanContext") -> str:
    trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return written(TraceContext(trace_id, span_id, context.trace_flags.sampled))


def _said(task: Task) -> dict[str, str]:
    return {
        spans.SYSTEM: spans.RABBITMQ,
        spans.OPERATION_TYPE: "send",
        spans.OPERATION_NAME: "send",
        spans.DESTINATION: TASKS.name,
        spans.ROUTING_KEY: task.capability or "",
        spans.TASK_ID: task.id or "",
        spans.CAPABILITY: task.capability or "",
        spans.TENANT: task.tenant,
    }
