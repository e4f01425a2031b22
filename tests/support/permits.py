"""Permits of a limit, asked for as the pipeline asks for them, and what counts those in use."""

from time import monotonic

from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import Limit
from maniple_dispatcher.limits.waiting_line import Then


def bulkhead_counts() -> BulkheadCounts:
    """Return what counts for a dispatcher that has granted nothing."""
    return BulkheadCounts(Coordinator("me", LeaseOwner(lambda _: None), 0.0), monotonic)


def ask_permit(coordinator: Coordinator, limit: Limit, then: Then, now: float) -> None:
    """Take one permit or wait for it; `then` is told at once, or when its owner has answered."""
    given = coordinator.take_permit(limit, now)
    if given is None:
        coordinator.await_permit(limit, then, now)
    elif given.granted:
        then(True, given.wait(0))
    else:
        then(given.refusal, given.again)
