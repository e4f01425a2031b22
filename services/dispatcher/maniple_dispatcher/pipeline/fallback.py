"""`fallback`: what a task gets that is refused. Pure."""

from datetime import datetime, timedelta

from msgspec import Raw, Struct

from maniple.codec import encode
from maniple.messages import Envelope
from maniple_dispatcher.pipeline.verdicts import Reject
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies.kinds.fallback import FallbackPolicy


class Output(Struct, frozen=True):
    """It ends with this output."""

    output: Raw


class Substitute(Struct, frozen=True):
    """Another capability runs."""

    capability: str


class Accept(Struct, frozen=True):
    """It is told that it is accepted, and asks again when there may be room."""


Instead = Output | Substitute | Accept


def instead(
    task: Envelope, policy: FallbackPolicy, refusal: Reject, good: ResultCache, now: datetime
) -> Instead | None:
    """Return what a task gets; None if it is not refused for that, or there is no good result."""
    spec = policy.spec
    if refusal.code not in spec.on:
        return None
    if spec.last_good:
        found = good.find(task, now - timedelta(seconds=spec.max_age))
        return None if found is None else Output(found)
    if spec.capability is not None:
        return Substitute(spec.capability)
    return Accept() if spec.accept else Output(Raw(encode(spec.value)))
