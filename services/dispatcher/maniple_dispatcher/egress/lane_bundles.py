"""The bundles in which tasks go to lanes and to agents' own queues, and how much each may carry."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from maniple.amqp import Publisher
from maniple.messages import ENVELOPES_TYPE
from maniple.topology import AGENTS, LANES
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.known_lanes import Sizes
from maniple_runtime.publish.batch_options import BatchOptions
from maniple_runtime.publish.batch_publisher import BatchPublisher
from maniple_runtime.publish.confirm import ConfirmCallback, Key
from maniple_runtime.telemetry import Metrics


@dataclass(slots=True)
class Readers:
    """What all read who may get what a dispatcher sends, as far as it knows; see `WIRE`."""

    records: bool = False
    """Other dispatchers, of records: `TasksAccepted`."""
    bundles: bool = False
    """Agents and other dispatchers, of bundles of tasks: compressed ones."""


def _one(_key: str) -> int:
    return 1


class LaneBundles:
    """Bundles tasks by destination; those that are `alone` go in bundles of one."""

    def __init__(
        self,
        publisher: Publisher,
        metrics: Metrics,
        assignment: Assignment,
        headers_of: Callable[[str], dict[str, Any] | None],
        readers: Readers,
    ) -> None:
        """Publish through `publisher`; what goes to a lane's queue has the `headers_of` its key.

        Bundles are compressed if the `readers` read that.
        """
        self._assignment = assignment
        self._readers = readers
        self.sizes = Sizes()
        to_agents = BatchOptions(
            size_of=self._size_of_agent, compresses=self._compresses, metrics=metrics
        )
        one_to_agents = BatchOptions(size_of=_one, metrics=metrics)
        to_lanes = BatchOptions(
            size_of=self.sizes.size,
            headers_of=headers_of,
            compresses=self._compresses,
            metrics=metrics,
        )
        one_to_lanes = BatchOptions(size_of=_one, headers_of=headers_of, metrics=metrics)
        self.publishers = {
            # In the order of draining: what an agent's own queue refuses goes to a lane.
            (AGENTS.name, False): BatchPublisher(publisher, AGENTS, ENVELOPES_TYPE, to_agents),
            (AGENTS.name, True): BatchPublisher(publisher, AGENTS, ENVELOPES_TYPE, one_to_agents),
            (LANES.name, False): BatchPublisher(publisher, LANES, ENVELOPES_TYPE, to_lanes),
            (LANES.name, True): BatchPublisher(publisher, LANES, ENVELOPES_TYPE, one_to_lanes),
        }
        """By exchange, and whether a task goes alone."""

    def learn_times(self, lane: str, runs: int, mean: float) -> None:
        """Learn the run times of a lane: they decide how many tasks a bundle carries."""
        self.publishers[LANES.name, False].limit(lane, self.sizes.learn(lane, runs, mean))
        for agent in self._assignment.serving(lane):
            self.publishers[AGENTS.name, False].limit(agent, self._size_of_agent(agent))

    def _compresses(self, _key: str) -> bool:
        return self._readers.bundles

    def _size_of_agent(self, agent: str) -> int:
        return min((self.sizes.size(lane) for lane in self._assignment.lanes(agent)), default=1)

    def withdraw_waiting(self, destination: Key) -> Iterator[ConfirmCallback]:
        """Yield what waits to be sent to a destination: it is not sent any more."""
        exchange, key = destination
        for alone in (False, True):
            yield from self.publishers[exchange, alone].withdraw(key)

    def cancel_sent(self, destination: Key, is_given_up: Callable[[ConfirmCallback], bool]) -> None:
        """Wait no more for a destination's confirm of what is given up."""
        exchange, key = destination
        for alone in (False, True):
            self.publishers[exchange, alone].cancel(key, is_given_up)

    async def drain_bundles(self) -> None:
        """Return when everything on its way has been confirmed."""
        for publisher in self.publishers.values():
            await publisher.drain()
