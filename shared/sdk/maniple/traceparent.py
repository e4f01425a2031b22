"""A task's trace: W3C trace context, as it travels in messages. Pure."""

import re
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SAMPLED = 0x01
_ODD = frozenset("13579bdf")
_TRACE = slice(3, 35)
_SPAN = slice(36, 52)
_HALF = 64  # bits
_LENGTH = 16  # of a trace id in bytes, and of a span id in digits
_NOT_ZERO = 1 | 1 << _HALF  # in either half
_NO_SPAN = "0" * _LENGTH
_UUID_LENGTH = 36


class TraceContext(NamedTuple):
    """The parts of a traceparent; ids are lower-case hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(text: str) -> TraceContext | None:
    """Read a traceparent; None if it is malformed."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def written(context: TraceContext) -> str:
    """Return the traceparent of these parts."""
    return f"00-{context.trace_id}-{context.span_id}-{int(context.sampled):02x}"


# What follows is for traceparents of version 00 that have been read once.


def is_sampled(traceparent: str | None) -> bool:
    """Tell whether the spans of a trace are written at once."""
    return traceparent is not None and traceparent[-1] in _ODD


def trace_id_of(traceparent: str) -> str:
    """Return the id of the trace."""
    return traceparent[_TRACE]


def span_id_of(traceparent: str) -> str:
    """Return the id of the span that the task continues."""
    return traceparent[_SPAN]


def with_sampling(traceparent: str, *, sampled: bool) -> str:
    """Return the same position in the same trace, sampled or not."""
    flags = int(traceparent[-2:], 16)
    return f"{traceparent[:-2]}{flags | _SAMPLED if sampled else flags & ~_SAMPLED:02x}"


def with_span(traceparent: str, span_id: str) -> str:
    """Return another position in the same trace."""
    return f"{traceparent[: _SPAN.start]}{span_id}{traceparent[_SPAN.stop :]}"


def begun_trace(random_bits: int, *, sampled: bool) -> str:
    """Return a new trace of 128 random bits, for a task whose submitter has none.

    Its span id is the first half of its trace id: so a reader knows that there is no such span, and
    that the task's first `dispatch` is a root (`is_begun_here`).
    """
    # Formatting an int of this size twice takes longer, and each new task needs one.
    trace_id = (random_bits | _NOT_ZERO).to_bytes(_LENGTH, "big").hex()
    return f"00-{trace_id}-{trace_id[:_LENGTH]}-{'01' if sampled else '00'}"


def trace_of_id(task_id: str, *, sampled: bool) -> str | None:
    """Return the new trace of a task whose id is a UUID; None if it is not.

    Its trace id is that UUID: it takes nothing to find one by the other, nor to send both. It is
    begun here as that of `begun_trace` is.
    """
    if _UUID.fullmatch(task_id) is None:
        return None
    trace_id = task_id.replace("-", "")
    span_id = trace_id[:_LENGTH]
    if span_id == _NO_SPAN:
        return None
    return f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"


def is_of_id(traceparent: str, task_id: str) -> bool:
    """Tell whether this is what `trace_of_id` returns, not sampled."""
    trace_id = task_id.replace("-", "")
    return (
        traceparent == f"00-{trace_id}-{trace_id[:_LENGTH]}-00"
        and task_id[8:24:5] == "----"
        and len(task_id) == _UUID_LENGTH
    )


def is_begun_here(traceparent: str) -> bool:
    """Tell whether a dispatcher started the trace, not a submitter, and it has no root yet."""
    return traceparent[_SPAN] == traceparent[_TRACE.start : _TRACE.start + 16]


def of_copy(traceparent: str) -> str:
    """Return the trace of a task's copy: a separate one, whose id differs in one bit.

    So either can be found from the other.
    """
    trace_id = int(trace_id_of(traceparent), 16) ^ 2
    return f"00-{trace_id:032x}-{trace_id >> _HALF or 1:016x}-{traceparent[-2:]}"
