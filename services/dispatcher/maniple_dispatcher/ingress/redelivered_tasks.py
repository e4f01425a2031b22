"""Tasks that are delivered again: what a dispatcher had when it died, or lost its connection."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from maniple.codec import encode
from maniple.messages import Envelope, Result, TaskAdmitted, fallbacks_in
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.ingress.bundle_members import Onward
from maniple_dispatcher.ingress.record_lookup import RecordLookup, is_end_of
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.pipeline.stages import is_charged
from maniple_policies import Resolved
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import ConfirmCallback, Settlement, as_ours
from maniple_runtime.records import Record, TaskKey

GoOn = Callable[[Record | None], None]
"""What is done with a task that has not ended; told what is known of it."""


class Asker(NamedTuple):
    """For whom a task is looked up: whom to answer, and whom to tell when that is done.

    That a task was `accepted` says nothing of one that comes back from an attempt. With a
    `capability`, the end of another task under the same id is not its end.
    """

    done: ConfirmCallback
    reply_to: str | None = None
    correlation_id: str | None = None
    accepted: bool = False
    capability: str | None = None


class RedeliveredTasks:
    """Settles those that have ended or are in their lanes, and brings the others onward.

    Whoever had them may have told of that, and only the acknowledgement was lost. Of what has no
    record nothing was told, though it may be in its lane or where it waits, without a confirm; but
    not if it is under a rate limit, as that is recorded first: it then is as new.
    """

    def __init__(self, lookups: RecordLookup, pipeline: Pipeline, results: ResultPublisher) -> None:
        """Look into the records by `lookups`, answer once more through `results`."""
        self._lookups = lookups
        self._pipeline = pipeline
        self._results = results

    def admit(
        self, envelope: Envelope, resolved: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        """Admit a task that a dispatcher had, when it is known what became of it."""
        go_on = partial(self.bring, envelope, resolved, source, before)
        self.answer_asker(_key(envelope), _asker(envelope, source), go_on)

    def on_returned_task(
        self, envelope: Envelope, source: Settlement, onward: Onward, *, since: float = 0.0
    ) -> None:
        """Call `onward` with what has waited when it is known not to have ended since.

        It may have ended longer ago than a dispatcher holds anything: up to `since` seconds.
        """
        go_on = partial(onward, envelope, source)
        self.answer_asker(_key(envelope), _asker(envelope, source), lambda _: go_on(), since=since)

    def answer_asker(self, key: TaskKey, asker: Asker, go_on: GoOn, *, since: float = 0.0) -> None:
        """Answer how a task has ended, or leave it in its lane; or else `go_on`."""
        found = partial(self._found, asker, go_on)
        self._lookups.ask(key, found, since, capability=asker.capability)

    def bring(
        self,
        envelope: Envelope,
        resolved: Resolved,
        source: Settlement,
        before: Redelivery,
        found: Record | None,
    ) -> None:
        """Admit a task of which it is known what was `found`: no end."""
        if is_charged(resolved):
            if found is None:  # it never left
                before = Redelivery.SAID if before is Redelivery.BOTH else Redelivery.UNKNOWN
            else:
                owes = isinstance(found, TaskAdmitted) and found.owing
                before = Redelivery.BOTH if owes else Redelivery.DELIVERED
        self._pipeline.admit(envelope, resolved, source, before)

    def _found(self, asker: Asker, go_on: GoOn, found: Record | None) -> None:
        try:
            # Another's end tells nothing of what became of the task that asks: it goes on, as two
            # submissions of one id do, and gets no end of a policy's making.
            if isinstance(found, Result) and is_end_of(found, asker.capability):
                self._answer(found, asker)
            elif found is None or isinstance(found, TaskAdmitted | Result) or asker.accepted:
                go_on(found)
            else:
                asker.done(None)
        except Exception as error:  # noqa: BLE001 - it ends as the broker's dead letter
            asker.done(as_ours(error))

    def _answer(self, result: Result, asker: Asker) -> None:
        if asker.reply_to is None:
            asker.done(None)
        else:
            encoded = encode(result)
            self._results.reply(encoded, asker.reply_to, asker.correlation_id, asker.done)


def _key(envelope: Envelope) -> TaskKey:
    return TaskKey(envelope.tenant, envelope.id)


def _asker(envelope: Envelope, source: Settlement) -> Asker:
    # What is a fallback itself may have ended as what it is instead of.
    instead = fallbacks_in(envelope.policies)
    return Asker(
        source.settle,
        envelope.reply_to,
        envelope.correlation_id,
        accepted=envelope.accepted,
        capability=None if instead else envelope.capability,
    )
