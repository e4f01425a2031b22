"""Tasks that are delivered again: what a dispatcher had when it died, or lost its connection."""

from collections.abc import Callable
from functools import partial

from maniple.codec import encode
from maniple.messages import Envelope, Result
from maniple.records import Record, TaskKey
from maniple.service.done import Done, as_ours
from maniple.service.outlets import ResultOutlet
from maniple.service.policies import Resolved
from maniple.service.settlement import Settlement
from maniple_dispatcher.domain.before import Before
from maniple_dispatcher.gate import Gate
from maniple_dispatcher.lookups import Lookups
from maniple_dispatcher.members import Onward


class Again:
    """Settles those that have ended or are in their lanes, and brings the others onward.

    Whoever had them may have told of that, and only the acknowledgement was lost. Of what has no
    record nothing was told, though it may be in its lane or where it waits, without a confirm.
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
        if before is Before.DELIVERED:
            onward = partial(self._admit, resolved)
            self.take(envelope, source, onward)
        else:
            self._gate.admit(envelope, resolved, source, before)

    def take(self, envelope: Envelope, source: Settlement, onward: Onward) -> None:
        """Call `onward` when it is known that a task has not ended, nor come to its lane."""
        to = envelope.reply_to, envelope.correlation_id
        key = TaskKey(envelope.tenant, envelope.id)
        go_on = partial(onward, envelope, source)
        self.look(key, to, source.settle, go_on, accepted=envelope.accepted)

    def look(
        self,
        key: TaskKey,
        to: tuple[str | None, str | None],
        done: Done,
        go_on: Callable[[], None],
        *,
        accepted: bool = False,
    ) -> None:
        """Answer `to` (its address and correlation) how a task has ended; or else `go_on`.

        One that was `accepted` before came back from an attempt: that it has been says nothing.
        """
        self._lookups.ask(key, partial(self._found, to, done, go_on, accepted))

    def _admit(self, resolved: Resolved, envelope: Envelope, source: Settlement) -> None:
        self._gate.admit(envelope, resolved, source, Before.DELIVERED)

    def _found(
        self,
        to: tuple[str | None, str | None],
        done: Done,
        go_on: Callable[[], None],
        accepted: bool,  # noqa: FBT001 - the same
        record: Record | None,
    ) -> None:
        try:
            if isinstance(record, Result):
                self._answer(record, to, done)
            elif record is None or accepted:
                go_on()
            else:
                done(None)
        except Exception as error:  # noqa: BLE001 - it ends as the broker's dead letter
            done(as_ours(error))

    def _answer(self, result: Result, to: tuple[str | None, str | None], done: Done) -> None:
        reply_to, correlation_id = to
        if reply_to is None:
            done(None)
        else:
            self._results.reply(encode(result), reply_to, correlation_id, done)
