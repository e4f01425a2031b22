"""Which entries of the catalog belong to processes that are gone. Pure: time is an argument."""

from collections.abc import Iterable, Mapping

GONE_AFTER = 10.0  # seconds for which every check has been critical
_CRITICAL = "critical"
_NODE_CHECK = "serfHealth"


def all_critical(checks: Mapping[str, str]) -> bool:
    """Whether an instance has checks of its own and all are critical."""
    own = [status for check, status in checks.items() if check != _NODE_CHECK]
    return bool(own) and all(status == _CRITICAL for status in own)


class Reaping:
    """Remembers since when instances have been critical."""

    def __init__(self, gone_after: float = GONE_AFTER) -> None:
        self._gone_after = gone_after
        self._since: dict[str, float] = {}

    def observe(self, critical: Iterable[str], now: float) -> list[str]:
        """Take the ids of all that are critical now; return those that have been for too long."""
        self._since = {instance: self._since.get(instance, now) for instance in critical}
        return [i for i, since in self._since.items() if now >= since + self._gone_after]
