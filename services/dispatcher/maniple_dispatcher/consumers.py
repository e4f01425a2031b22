"""Every input of a dispatcher, and what takes it."""

from dataclasses import dataclass

from maniple.topology import (
    CONTROL,
    DEAD_BROKER,
    EVENTS,
    OUTCOMES,
    RETRY_QUEUE,
    SUBMIT,
    UNROUTED_QUEUE,
)
from maniple_dispatcher.affinity.agents import AGENT_EVENTS, AgentDirectory
from maniple_dispatcher.handlers import DispatcherHandlers
from maniple_dispatcher.ingress.dead_letter_consumer import DeadLetterConsumer
from maniple_dispatcher.ingress.retry_consumer import RetryConsumer
from maniple_dispatcher.ingress.submission import SubmissionConsumer
from maniple_dispatcher.limits.gossip import Gossip
from maniple_dispatcher.settings import DispatcherSettings
from maniple_runtime.consumers import Consumers, FromExchange, FromQueue, Heard
from maniple_runtime.control.messages import Cancel, Outcomes, Time
from maniple_runtime.control.routing_keys import ALL_AGENTS
from maniple_runtime.events import PolicyChanged
from maniple_runtime.policy_view import PolicyView

PREFETCH_DEAD = 16


@dataclass(frozen=True, kw_only=True)
class Takers:
    """Who takes what comes in."""

    submissions: SubmissionConsumer
    retries: RetryConsumer
    dead_letters: DeadLetterConsumer
    gossip: Gossip
    handlers: DispatcherHandlers
    agents: AgentDirectory
    policies: PolicyView


def consumers_of(takers: Takers, settings: DispatcherSettings) -> Consumers:
    """Return which message from where goes to whom."""
    on_submission, at_once = takers.submissions.on_submission, settings.prefetch
    on_outcomes, on_command = takers.handlers.on_outcomes, takers.handlers.on_command
    on_agent, on_policy = takers.agents.on_agent_event, takers.policies.on_policy_changed
    agent_keys = tuple(event.KEY for event in AGENT_EVENTS)
    return Consumers(
        queues=(
            FromQueue(SUBMIT, on_submission, at_once),
            FromQueue(UNROUTED_QUEUE, on_submission, at_once),
            FromQueue(RETRY_QUEUE, takers.retries.on_retry, settings.retry_prefetch),
            FromQueue(DEAD_BROKER, takers.dead_letters.on_dead_letter, PREFETCH_DEAD),
        ),
        heard=(Heard(OUTCOMES, "", takers.gossip.on_report),),
        messages=(
            FromExchange(EVENTS, (PolicyChanged.KEY,), (PolicyChanged,), on_policy),
            FromExchange(OUTCOMES, ("",), (Outcomes,), on_outcomes),
            FromExchange(CONTROL, (ALL_AGENTS,), (Cancel, Time), on_command),
            FromExchange(EVENTS, agent_keys, AGENT_EVENTS, on_agent),
        ),
    )
