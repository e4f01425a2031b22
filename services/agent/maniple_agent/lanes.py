"""The lanes that an agent serves: which queues it reads, and how much of each it holds."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import structlog

from maniple.service.hotpath import HotPath
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskDefinition
from maniple.topology import Queue, lane_name, lane_queues
from maniple.transport import Consumer
from maniple_agent.domain.slots import LaneMeasure, prefetch_for, worth_changing
from maniple_agent.work import Work


class Lanes:
    """One consumer for each lane and one for its suspects."""

    def __init__(
        self,
        definitions: Iterable[TaskDefinition],
        variants: Iterable[str],
        capacities: Mapping[Kind, int],
    ) -> None:
        """Serve the plain lanes of all capabilities, and of each the `variants`."""
        self._capacity = {
            lane_name(definition.capability, variant): capacities[definition.executor]
            for definition in definitions
            for variant in (None, *variants)
        }
        self._consumers: dict[str, Consumer] = {}
        self._log = structlog.get_logger("maniple.agent.lanes")

    @property
    def names(self) -> tuple[str, ...]:
        """The lanes served."""
        return tuple(self._capacity)

    def queues(self) -> Iterator[Queue]:
        """Iterate over the queues to declare."""
        for lane in self._capacity:
            yield from lane_queues(lane)

    def consume(self, hot: HotPath, work: Work) -> None:
        """Put the consumers on the hot path; bundles go to `work`."""
        for lane, capacity in self._capacity.items():
            plain, suspects = lane_queues(lane)
            prefetch = prefetch_for(capacity, LaneMeasure())
            consumer = Consumer(hot.intake, plain.name, work.take, prefetch=prefetch)
            self._consumers[lane] = consumer
            hot.consume(consumer)
            suspicious = partial(work.take, suspect=True)
            hot.consume(Consumer(hot.intake, suspects.name, suspicious, prefetch=1))

    async def adapt(self, measures: Mapping[str, LaneMeasure]) -> None:
        """Let each lane hold what can start within 50 ms by its measured run time."""
        for lane, measure in measures.items():
            consumer = self._consumers.get(lane)
            if consumer is None:
                continue
            wanted = prefetch_for(self._capacity[lane], measure)
            if worth_changing(consumer.prefetch, wanted):
                self._log.debug("prefetch", lane=lane, old=consumer.prefetch, new=wanted)
                await consumer.resize(wanted)
