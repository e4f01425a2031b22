"""Taking admitted tasks from a message one by one: what is wrong with one costs no other."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from maniple.amqp import Delivery
from maniple.attempts import Ran
from maniple.codec import decode_members, encode
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import Envelope
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.pipeline.verdicts import given_up
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.remnants import remnant_of, undecodable

Onward = Callable[[Envelope, Settlement], None]

_log = logging.getLogger(__name__)


class BundleMembers:
    """Brings the members of a message onward; ends those for which that cannot be done.

    They were admitted, so each ends under its identity; the bytes of what cannot be read are kept.
    """

    def __init__(
        self, lanes: LanePublisher, log: RefusedLog | None, clock: Callable[[], datetime]
    ) -> None:
        """End tasks through `lanes`, keep bytes in `log`."""
        self._lanes = lanes
        self._log = log
        self._clock = clock

    def bring_all(self, delivery: Delivery, onward: Onward, queue: str) -> None:
        """Call `onward` with each member of a message that came from `queue`."""
        try:
            members = decode_members(delivery.body, Envelope)
        except InvalidMessage:
            delivery.reject()  # none of ours; the broker keeps it in the dead-letter log
            return
        if not members:
            delivery.ack()
        self.bring(members, Settlement(delivery, len(members)), onward, queue)

    def bring(
        self,
        members: Sequence[Envelope | InvalidMessage],
        source: Settlement,
        onward: Onward,
        queue: str,
    ) -> None:
        """Call `onward` with each of the `members` of a message that came from `queue`."""
        for member in members:
            try:
                if isinstance(member, InvalidMessage):
                    self._keep_remnant(member, source, queue)
                else:
                    onward(member, source)
            except Exception as error:  # noqa: BLE001 - one of them must not cost the others
                _log.exception("a task from %s cannot be dispatched", queue)
                self._give_up(member, error, source, queue)

    def _keep_remnant(self, unreadable: InvalidMessage, source: Settlement, queue: str) -> None:
        now = self._clock()
        envelope = remnant_of(unreadable, now)
        if envelope is not None:
            result = undecodable(envelope, unreadable, Ran(None, None, now))
            self._lanes.end_task(result, envelope, source)
            source.expect(1)  # not before: if that fails it is one part as any other
        self._keep(unreadable, source, queue)

    def _give_up(
        self, member: Envelope | InvalidMessage, error: Exception, source: Settlement, queue: str
    ) -> None:
        why = f"a dispatcher failed over it: {error!r}"
        if isinstance(member, Envelope):
            try:
                self._lanes.end_task(given_up(member, self._clock(), why), member, source)
            except Exception:  # noqa: BLE001 - whatever it was, its bytes are kept
                _log.exception("a task from %s cannot be ended", queue)
            else:
                return
        body = encode(member) if isinstance(member, Envelope) else member.body
        self._keep(InvalidMessage(ErrorCode.UNDECODABLE, why, body=body), source, queue)

    def _keep(self, unreadable: InvalidMessage, source: Settlement, queue: str) -> None:
        if self._log is None:
            _log.error("what came from %s is not kept: %s", queue, unreadable)
            source.settle()
            return
        origin = {"routing_key": queue}
        self._log.keep(unreadable.body or b"", unreadable, origin, source.settle)
