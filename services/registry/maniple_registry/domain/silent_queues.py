"""Places whose queue answers nobody, as all agents report that would consume there. Pure."""

from collections import Counter
from collections.abc import Collection

from maniple_registry.domain.agent_record import FINAL, AgentRecord


class SilentQueues:
    """Since when each place is silent: until it answers an agent, the queue is at fault."""

    def __init__(self, patience: float) -> None:
        """Tolerate a silence of `patience` seconds, as of a queue that elects a leader."""
        self._patience = patience
        self._since: dict[str, float] = {}

    def find_silent(self, records: Collection[AgentRecord], now: float) -> frozenset[str]:
        """Return the places that have been silent for too long (time: seconds)."""
        said = Counter(
            place
            for record in records
            if record.heartbeat.unconsumed and record.state not in FINAL
            for place in record.heartbeat.unconsumed
            if place in record.places
        )
        if said:
            said.subtract(
                place
                for record in records
                if record.state not in FINAL
                for place in said.keys() & record.places.keys()
            )
        silent = [place for place, others in said.items() if others == 0]
        self._since = {place: self._since.get(place, now) for place in silent}
        return frozenset(p for p, since in self._since.items() if now - since >= self._patience)
