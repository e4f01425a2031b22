"""Every input of the policy service, and what takes it."""

from maniple.topology import EVENTS
from maniple_policy.handlers import PolicyHandlers
from maniple_policy.queries import PolicyQueries
from maniple_runtime.consumers import Consumers, FromExchange
from maniple_runtime.events import PolicyApplied


def consumers_of(handlers: PolicyHandlers, answers: PolicyQueries) -> Consumers:
    """Return which message goes to whom, and who answers which request."""
    on_applied = FromExchange(EVENTS, (PolicyApplied.KEY,), (PolicyApplied,), answers.on_applied)
    return Consumers(
        messages=(on_applied,),
        requests={
            "policy.apply": handlers.apply,
            "policy.apply_all": handlers.apply_all,
            "policy.delete": handlers.delete,
            "policy.rollback": handlers.rollback,
            "policy.get": answers.get_policy,
            "policy.list": answers.list,
            "policy.history": answers.history,
            "policy.diff": answers.diff,
            "policy.explain": answers.explain,
            "policy.status": answers.status,
            "policy.snapshot": answers.snapshot,
        },
    )
