"""Tasks that are delivered again: what a dispatcher had when it died, or lost its connection."""

from collections.abc import Callable
from functools import partial

from maniple.codec import encode
from maniple.messages import Envelope, Result, TaskAdmitted
from maniple.records import Record, TaskKey
from maniple.service.done import Done, as_ours
from maniple.service.outlets import ResultOutlet
from maniple.service.policies import Resolved
from maniple.service.settlement import Settlement
from maniple_dispatcher.domain.before import Before
from maniple_dispatcher.gate import Gate
from maniple_dispatcher.lookups import Lookups
from maniple_dispatcher.members import Onward

To = tuple[str | None, str | None]
"""A reply's address and correlation."""
NOBODY: To = (None, None)
GoOn = Callable[[Record | None], None]
"""What is done with a task that has not ended; told what is known of it."""


class Again:
    """Settles those that have ended or are in their lanes, and brings the others onward.

    Whoever had them may have told of that, and only the acknowledgement was lost. Of what has no
    record nothing was told, though it may be in its lane or where it waits, without a confirm; but
    not if it is under a rate limit, as that is recorded first: it then is as new.
    """

    def __init__(self, lookups: Lookups, gate: Gate, results: ResultOutlet) -> None:
        """Look into the records by `lookups`, answer once more through `results`."""
        self._lookups = lookups
        self._gate = gate
        self._results = results

    def admit(
        self, envelope: Envelope, resolved: Resolved, source: Settlement, before: Before
    ) -> None:
        """Admit a task, as `Gate.admit` does, when it is known what became of it."""
        if before in {Before.DELIVERED, Before.BOTH}:
            go_on = partial(self._admit, envelope, resolved, source, before)
            self.look(TaskKey(envelope.tenant, envelope.id), _to(envelope), source.settle, go_on)
        else:
            self._gate.admit(envelope, resolved, source, before)

    def take(
        self, envelope: Envelope, source: Settlement, onward: Onward, *, since: float = 0.0
    ) -> None:
        """Call `onward` with what has waited when it is known not to have ended since.

        That it was accepted says nothing of what comes back from an attempt. It may have ended
        longer ago than a dispatcher holds anything: up to `since` seconds.
        """
        key, go_on = TaskKey(envelope.tenant, envelope.id), partial(onward, envelope, source)
        then = partial(
            self._found, _to(envelope), source.settle, lambda _: go_on(), envelope.accepted
        )
        self._lookups.ask(key, then, since)

    def look(self, key: TaskKey, to: To, done: Done, go_on: GoOn) -> None:
        """Answer `to` how a task has ended, or leave it in its lane; or else `go_on`.

        Who may only claim its id is not answered: then nobody is in `to`.
        """
        accepted = False
        self._lookups.ask(key, partial(self._found, to, done, go_on, accepted))

    def _admit(
        self,
        envelope: Envelope,
        resolved: Resolved,
        source: Settlement,
        before: Before,
        found: Record | None,
    ) -> None:
        if resolved.rate_limit is not None:
            if found is None:  # it never left
                before = Before.SAID if before is Before.BOTH else Before.UNKNOWN
            else:
                owes = isinstance(found, TaskAdmitted) and found.owing
                before = Before.BOTH if owes else Before.DELIVERED
        self._gate.admit(envelope, resolved, source, before)

    def _found(
        self,
        to: To,
        done: Done,
        go_on: GoOn,
        accepted: bool,  # noqa: FBT001 - given by position
        found: Record | None,
    ) -> None:
        try:
            if isinstance(found, Result):
                self._answer(found, to, done)
            elif found is None or isinstance(found, TaskAdmitted) or accepted:
                go_on(found)
            else:
                done(None)
        except Exception as error:  # noqa: BLE001 - it ends as the broker's dead letter
            done(as_ours(error))

    def _answer(self, result: Result, to: To, done: Done) -> None:
        reply_to, correlation_id = to
        if reply_to is None:
            done(None)
        else:
            self._results.reply(encode(result), reply_to, correlation_id, done)


def _to(envelope: Envelope) -> To:
    return envelope.reply_to, envelope.correlation_id
