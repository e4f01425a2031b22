"""Settings with timings that no variable sets: some shorter than the others."""

from typing import TypeVar

from maniple.timings import Timings
from maniple_runtime.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


def timed(settings: S, timings: Timings | None) -> S:
    """Apply timings to settings, if any, and return them."""
    if timings is not None:
        vars(settings)["timings"] = timings  # where a cached property is kept
    return settings
