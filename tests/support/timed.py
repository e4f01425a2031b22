"""Settings with times that no variable sets: some shorter than others, beside patience as ever."""

from typing import TypeVar

from maniple.timings import Timings
from maniple_runtime.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


def timed(settings: S, timings: Timings | None) -> S:
    """Give settings these times, if any, and return them."""
    if timings is not None:
        vars(settings)["timings"] = timings  # where a cached property is kept
    return settings
