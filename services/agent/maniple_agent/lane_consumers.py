"""The lanes that an agent serves: which queues it reads, and how much of each it holds."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import structlog

from maniple.amqp import Consumer, Delivery
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskDefinition
from maniple.topology import Queue, agent_queue, lane_name, lane_queues, suspect_lane
from maniple_agent.domain.prefetch import prefetch_for, worth_changing
from maniple_agent.run_queue import LaneMeasure
from maniple_agent.scheduler import Scheduler
from maniple_runtime.hotpath import HotPath


class LaneConsumers:
    """One consumer for each lane, one for its suspects, and one for the agent's own queue.

    The own queue is there if a capability has affinity; it holds as much as the hungriest of them.
    """

    def __init__(  # noqa: PLR0913 - which lanes, and who reads and runs what is there
        self,
        agent: str,
        definitions: Iterable[TaskDefinition],
        variants: Iterable[str],
        capacities: Mapping[Kind, int],
        *,
        hot: HotPath,
        work: Scheduler,
    ) -> None:
        """Serve the plain lanes of all capabilities, and of each the `variants`.

        They are consumed on the hot path, which must not have been started yet; bundles go to
        `work`.
        """
        definitions, variants = tuple(definitions), tuple(variants)
        self._own_queue = agent_queue(agent)
        self._affine = {
            lane_name(definition.capability, variant)
            for definition in definitions
            if definition.affinity
            for variant in (None, *variants)
        }
        self._own: Consumer | None = None
        self._capacities = capacities
        self._served = {
            lane_name(definition.capability, variant): definition
            for definition in definitions
            for variant in (None, *variants)
        }
        self._consumers: dict[str, Consumer] = {}
        self._suspects: dict[str, Consumer] = {}
        self._places: dict[str, Consumer] = {}
        self._paused: set[Consumer] = set()
        self._hot, self._work = hot, work
        self._log = structlog.get_logger("maniple.agent.lanes")
        self._consume()

    @property
    def names(self) -> tuple[str, ...]:
        """The lanes served."""
        return tuple(self._served)

    @property
    def hungry(self) -> tuple[str, ...]:
        """The lanes of which more would be taken now; none whose queue does not answer.

        While the link is down that is no queue's fault, and whatever would be taken is.
        """
        up = self._hot.intake.is_up
        return tuple(
            lane
            for lane, consumer in self._consumers.items()
            if consumer.wants_more and (consumer.consumes or not up)
        )

    @property
    def unconsumed(self) -> tuple[str, ...]:
        """The places that would be consumed, and whose queue has not answered."""
        if not self._hot.intake.is_up:
            return ()
        return tuple(place for place, one in self._places.items() if not one.consumes)

    def renew(self, places: Iterable[str]) -> None:
        """Consume these anew: lanes, their suspects, or the own queue; others are not ours."""
        for place in places:
            consumer = self._places.get(place)
            if consumer is not None:
                self._log.warning("subscribing to a queue anew", queue=consumer.queue)
                consumer.renew()

    def _consume(self) -> None:
        """Put the consumers on the hot path."""
        hot, work = self._hot, self._work
        on_bundle = work.ingress.on_bundle

        def consumer(queue: Queue, handle: Callable[[Delivery], None], prefetch: int) -> Consumer:
            return hot.consume(queue, handle, prefetch, on_lost=work.connection_lost)

        for lane in self._served:
            plain, suspects = lane_queues(lane)
            slots = self._capacities[self._served[lane].executor]
            wanted = prefetch_for(slots, None, None)
            self._consumers[lane] = consumer(plain, on_bundle, wanted)
            self._suspects[lane] = consumer(suspects, partial(on_bundle, suspect=True), 1)
        if self._affine:
            wanted = max(self._consumers[lane].prefetch for lane in self._affine)
            self._own = self._places[self._own_queue.name] = consumer(
                self._own_queue, on_bundle, wanted
            )
        for lane in self._served:
            self._places[suspect_lane(lane)] = self._suspects[lane]
        self._places |= self._consumers

    def adapt(self) -> None:
        """Fit the prefetch of each lane to what can start within 50 ms by its measured run time.

        From lanes without a slot that could come free nothing is taken at all. The broker's answers
        are not waited for: the queue of one lane may give none.
        """
        wanted = {lane: self._wanted(lane) for lane in self._consumers}
        for lane, prefetch in wanted.items():
            self._fit(self._consumers[lane], prefetch)
            self._fit(self._suspects[lane], min(1, prefetch))
        if self._own is not None:
            self._fit(self._own, max(wanted[lane] for lane in self._affine))

    def _fit(self, consumer: Consumer, wanted: int) -> None:
        if wanted == 0:
            # Each time: a fence that opens lets all take again.
            self._paused.add(consumer)
            consumer.want(paused=True)
            return
        # What is under way while the prefetch changes comes again as if we had died with it. While
        # it is used up nothing is; and before that, there is no need for more.
        needed = wanted < consumer.prefetch or not consumer.hungry
        if needed and worth_changing(consumer.prefetch, wanted):
            self._log.debug(
                "prefetch changed", queue=consumer.queue, old=consumer.prefetch, new=wanted
            )
            consumer.want(prefetch=wanted)
        if consumer in self._paused and self._work.takes:
            self._paused.discard(consumer)
            consumer.want(paused=False)

    def _wanted(self, lane: str) -> int:
        """Return the prefetch of a lane; 0 if none of its slots can be used."""
        definition, work = self._served[lane], self._work
        kind = definition.executor
        slots = self._capacities[kind] - len(work.slots.stuck_reasons(kind))
        slots = work.waiting.usable(definition, slots)
        measure = work.measures.get(lane) or LaneMeasure()
        return prefetch_for(slots, measure.mean, measure.bundle) if slots > 0 else 0
