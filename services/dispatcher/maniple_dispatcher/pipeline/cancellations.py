"""Which tasks have been cancelled. Pure."""

from datetime import datetime, timedelta

from maniple.topology import DELAY_TIERS

# Whatever waits in the broker passes a dispatcher within the longest tier.
KEPT = timedelta(seconds=DELAY_TIERS[-1] + 60)
MAX_CANCELLED = 10_000


class Cancellations:
    """Tasks cancelled lately, by tenant and id; of too many the oldest are forgotten."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], datetime] = {}

    def add_task(self, tenant: str, task: str, now: datetime) -> None:
        """Take that a task is cancelled."""
        self._since.pop((tenant, task), None)  # in the dict, the latest comes last
        self._since[tenant, task] = now
        while self._since:
            oldest = next(iter(self._since))
            if len(self._since) <= MAX_CANCELLED and now - self._since[oldest] < KEPT:
                break
            del self._since[oldest]

    def has(self, tenant: str, task: str) -> bool:
        """Tell whether a task has been cancelled."""
        return bool(self._since) and (tenant, task) in self._since
