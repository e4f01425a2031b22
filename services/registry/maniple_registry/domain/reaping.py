"""Which entries of the catalog belong to dead processes. Pure: time is an argument."""

from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

_CRITICAL = "critical"
_NODE_CHECK = "serfHealth"

T = TypeVar("T", bound=Hashable)


def all_critical(checks: Mapping[str, str], long: AbstractSet[str]) -> bool:
    """Tell whether an instance has checks, all critical and these among them for `long`."""
    own = {check: status for check, status in checks.items() if check != _NODE_CHECK}
    return bool(own) and own.keys() <= long and set(own.values()) == {_CRITICAL}


class Reaping(Generic[T]):
    """Remembers since when checks have been critical."""

    def __init__(self, gone_after: float) -> None:
        """Start; `gone_after` is for how many seconds every check has to be critical."""
        self._gone_after = gone_after
        self._since: dict[T, float] = {}

    def observe(self, critical: Iterable[T], now: float) -> list[T]:
        """Apply all checks that are critical now; return those that have been for too long.

        They are returned again after as long, if they still are.
        """
        self._since = {one: self._since.get(one, now) for one in critical}
        found = [one for one, since in self._since.items() if now >= since + self._gone_after]
        self._since.update(dict.fromkeys(found, now))
        return found
