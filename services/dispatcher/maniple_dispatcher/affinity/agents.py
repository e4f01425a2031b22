"""Which agents there are, for those that serve capabilities with affinity."""

import asyncio
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from maniple.errors import BrokerUnavailable, PublishRefused, RequestFailed
from maniple_dispatcher.affinity.assignment import Assignment, affinity_lanes
from maniple_dispatcher.affinity.queue_drainer import QueueDrainer
from maniple_dispatcher.affinity.queue_markers import QueueMarkers
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.settings import DispatcherSettings
from maniple_runtime.control.incarnations import is_of_the_future
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import (
    AgentDraining,
    AgentEvent,
    AgentFailed,
    AgentLeft,
    AgentRegistered,
)
from maniple_runtime.listing import all_agents
from maniple_runtime.runtime import Runtime

FIRST_TIMEOUT = 2.0
TICK = 1.0
TICKS = 120  # between questions to the registry, while the connection stands
MARK_TICKS = 5
MOST_MOVED = 100  # queues looked for at once of agents that only marks tell of
GONE = {"failed", "left"}
AGENT_EVENTS = (AgentRegistered, AgentDraining, AgentFailed, AgentLeft)


class AgentDirectory:
    """Follows the agents' events; asks the registry at the start, after a loss, now and then.

    While the registry is away, events alone decide. Who is missing in its answers for long (one
    that has just started may not have heard everybody yet) is gone. `markers` tell of agents that
    were there before this dispatcher, and that no registry knows any more.
    """

    def __init__(  # noqa: PLR0913 - whom it hears and asks, and who is to know
        self,
        runtime: Runtime[DispatcherSettings],
        plane: ControlPlane,
        assignment: Assignment,
        drainer: QueueDrainer,
        markers: QueueMarkers,
        *,
        deadlines: LaneDeadlines,
        ended: Callable[[str, str, bool], object] = lambda *_: None,
    ) -> None:
        """Keep `assignment`, and have `drainer` drain the queues of agents that are gone.

        `deadlines` is told in which lanes agents are or were, `ended` which lives of an agent are
        over: up to this one (or all), or those before it.
        """
        self._deadlines = deadlines
        self._markers = markers
        self._runtime = runtime
        self._clock = runtime.clock
        self._plane = plane
        self._assignment = assignment
        self._drainer = drainer
        self._missing: dict[str, float] = {}
        self._ended = ended
        self._patience = 2 * runtime.settings.timings.queues.leftover

    async def start_following(self) -> None:
        """Ask which agents there are, now and then again; without a registry go on after 2 s."""
        asked = await self._ask(FIRST_TIMEOUT)
        self._runtime.spawn(self._keep_asking(0 if asked else TICKS), "ask for agents")

    def on_agent_event(self, event: AgentEvent) -> None:
        """Record an event; one of a life that cannot be would make all that follow seem older."""
        if is_of_the_future(event.incarnation):
            return
        if isinstance(event, AgentRegistered):
            described = event.description
            self._deadlines.stir(described.lanes)
            self._ended(event.agent, event.incarnation, False)
            lanes = affinity_lanes(described.lanes, described.affinity)
            now = self._clock.now().timestamp()
            if self._assignment.registered(
                event.agent, event.incarnation, lanes, now, wire=described.wire
            ):
                self._drainer.begin_draining(event.agent)
        elif isinstance(event, AgentDraining):
            self._assignment.draining(event.agent, event.incarnation)
        else:
            self._gone(event.agent, event.incarnation)

    def _gone(self, agent: str, incarnation: str) -> None:
        # A registry that never heard the agent, but missed it, does not know its incarnation.
        self._ended(agent, incarnation, True)
        if incarnation:
            leaves_queue = self._assignment.gone(agent, incarnation, self._clock.now().timestamp())
        else:
            leaves_queue = self._assignment.missing(agent, marked=True)
        if leaves_queue:
            self._drainer.begin_draining(agent)

    async def _keep_asking(self, ticks: int) -> None:
        reconnects = self._plane.reconnects
        while True:
            await asyncio.sleep(TICK * random.uniform(0.8, 1.2))
            ticks += 1
            if ticks % MARK_TICKS == 0 and not self._markers.has(self._assignment.readers):
                await self._markers.refresh(self._assignment.readers)
            if ticks < TICKS and reconnects == self._plane.reconnects:
                continue
            reconnects = self._plane.reconnects
            if not await self._ask():
                ticks = TICKS
            else:
                ticks = max(0, TICKS - int(self._patience)) if self._missing else 0

    async def _ask(self, timeout: float = 5.0) -> bool:
        try:
            request = partial(self._plane.request, "registry", "agents", timeout=timeout)
            shown = (await all_agents(request))["agents"]
            for one in shown:
                self._take_one(one)
            known = {one["id"] for one in shown}
        except (BrokerUnavailable, PublishRefused, RequestFailed, KeyError, TypeError) as error:
            self._runtime.log.info("agents not known from the registry", reason=repr(error))
            return False
        self._deadlines.told = True
        await self._look_for_missing(known)
        return True

    async def _look_for_missing(self, known: set[str]) -> None:
        """Find who is neither known to the registry nor gone with a farewell."""
        marked = await self._markers.refresh(self._assignment.readers)
        now = self._clock.monotonic()
        self._missing = {
            agent: self._missing.get(agent, now)
            for agent in {*marked, *self._assignment.here} - known
        }
        late = [agent for agent, since in self._missing.items() if now - since >= self._patience]
        here = set(self._assignment.here)
        unheard = [agent for agent in late if agent not in here]
        for agent in [*(one for one in late if one in here), *unheard[:MOST_MOVED]]:
            if self._assignment.missing(agent, marked=agent in marked):
                self._drainer.begin_draining(agent)

    def _take_one(self, shown: Mapping[str, Any]) -> None:
        try:
            self._take_agent(shown)
        except Exception:  # one of them must not cost the others
            self._runtime.log.exception("an agent cannot be read in the registry's answer")

    def _take_agent(self, shown: Mapping[str, Any]) -> None:
        agent, incarnation = shown["id"], shown["incarnation"]
        if is_of_the_future(incarnation):
            return
        self._deadlines.learn_lane(shown.get("lanes", ()))
        if shown["state"] in GONE:
            self._gone(agent, incarnation)
            return
        if "lanes" in shown:
            lanes = affinity_lanes(shown["lanes"], shown.get("affinity", ()))
            now = self._clock.now().timestamp()
            told = shown.get("wire")  # not by a registry of an earlier release
            wire = told if isinstance(told, int) else 1
            if self._assignment.registered(agent, incarnation, lanes, now, wire=wire):
                self._drainer.begin_draining(agent)
        if shown["state"] == "draining":
            self._assignment.draining(agent, incarnation)
