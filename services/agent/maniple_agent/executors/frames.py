"""What an agent and its worker processes say to each other: length-prefixed JSON on a socket."""

import struct

from msgspec import Raw, Struct

from maniple.messages import NULL, Failure, TaskInfo
from maniple.spans import Span

LENGTH = struct.Struct(">I")


class WorkerCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt to run. `memory` is bytes that it may use, or reserve.

    If it is `traced`, `traceparent` is its span, and the spans that its handler makes are wanted.
    """

    task: TaskInfo
    timeout: float
    memory: int
    payload: Raw
    agent: str = ""
    traceparent: str | None = None
    traced: bool = False


class WorkerReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Progress, or the outcome of a call; `ready` when a worker has started or received a call."""

    ready: bool = False
    progress: bool = False
    value: Raw = NULL
    failure: Failure | None = None
    retryable: bool = True
    seconds: float = 0.0
    spans: list[Span] = []


def framed(body: bytes) -> bytes:
    """Return `body` behind its length."""
    return LENGTH.pack(len(body)) + body
