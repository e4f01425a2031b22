"""How a `BatchPublisher` makes and publishes its bundles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maniple.amqp.batching import MAX_ITEMS
from maniple.clock import SYSTEM_CLOCK
from maniple_runtime.telemetry import Metrics

WINDOW = 8  # bundles of a key that are in flight
REFUSED_PAUSE = 1.0  # seconds until what was refused is published again
_NO_HEADERS: dict[str, dict[str, Any]] = {}


def _never(_key: str) -> bool:
    return False


def _as_many_as_fit(_key: str) -> int:
    return MAX_ITEMS


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How bundles are made and published, and who is told."""

    insist: bool = False
    """Publish a refused bundle again until it is taken; without, its items are told."""
    courtesy: bool = False
    """Nobody need listen, and nothing is kept over a restart of the broker."""
    size_of: Callable[[str], int] = _as_many_as_fit
    """How many items a bundle of a key has at most."""
    patience: float = 0.0
    """Seconds for which a bundle waits for company."""
    timeout: float | None = None
    """Seconds after which a bundle is given up that is not confirmed."""
    once: bool = False
    """Send no bundle again over a new connection."""
    headers_of: Callable[[str], dict[str, Any] | None] = _NO_HEADERS.get
    """The headers of bundles of a key."""
    compresses: Callable[[str], bool] = _never
    """Whether all who read bundles of a key read them compressed."""
    window: int = WINDOW
    """How many bundles of a key are in flight."""
    metrics: Metrics | None = None
    """Count bundles and refusals."""
    answered: Callable[[float], None] | None = None
    """Told of each confirm when that bundle was sent, by `monotonic`."""
    monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic
