"""Every input of a registry, and what takes it."""

from functools import partial

from maniple.topology import CONTROL, EVENTS, HEARTBEATS
from maniple_registry.clock_watch import ClockWatch
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.heartbeat_consumer import HeartbeatConsumer
from maniple_runtime.consumers import Consumers, FromExchange, Heard
from maniple_runtime.control.messages import Time
from maniple_runtime.control.routing_keys import ALL_AGENTS
from maniple_runtime.events import AGENT_EVENTS


def consumers_of(
    handlers: RegistryHandlers, hearing: HeartbeatConsumer, clocks: ClockWatch
) -> Consumers:
    """Return which message from where goes to whom, and who answers which request."""
    on_heartbeat = partial(hearing.on_message, handlers.on_heartbeat)
    return Consumers(
        heard=(Heard(HEARTBEATS, "", on_heartbeat),),
        messages=(
            FromExchange(EVENTS, ("agent.*",), AGENT_EVENTS, handlers.on_agent_event),
            FromExchange(CONTROL, (ALL_AGENTS,), (Time,), clocks.record_clock),
        ),
        requests={
            "agents": handlers.agents,
            "agent": handlers.agent,
            "failed": handlers.failed,
            "time": clocks.time,
        },
    )
