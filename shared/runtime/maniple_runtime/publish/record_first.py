"""Recording how a task ends that nobody runs, before anybody is told of it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from maniple.codec import encode
from maniple.errors import BrokerUnavailable, ManipleError, PublishRefused
from maniple.messages import Result
from maniple.topology import REFUSED_KEY
from maniple_runtime.publish.batch_options import REFUSED_PAUSE
from maniple_runtime.publish.confirm import DELIVERED_AGAIN, ConfirmCallback

if TYPE_CHECKING:
    from maniple_runtime.publish.batch_publisher import BatchPublisher

SendReply = Callable[[bytes, str, str | None, ConfirmCallback], None]


class RecordFirst:
    """Records results by `records`; what follows is done when that is confirmed, and only then."""

    def __init__(self, records: "BatchPublisher", reply: SendReply) -> None:
        """Begin; `reply` sends an encoded result to whoever asked for it."""
        self._records = records
        self._reply = reply

    def conclude(
        self,
        result: Result,
        reply_to: str | None,
        correlation_id: str | None,
        done: ConfirmCallback,
        *,
        alive: Callable[[], bool],
    ) -> None:
        """Record how a task ends that nobody runs, then reply: in this order, and while `alive`.

        When what the task came in is not ours any more, it comes again to somebody who looks into
        the records first. So nothing may be told of it that is not there, nor be recorded later:
        what is not recorded by then is given up, and `done` told so (`BrokerUnavailable`).
        """
        encoded = encode(result)

        def answer() -> None:
            if reply_to is None:
                done(None)
            else:
                self._reply(encoded, reply_to, correlation_id, done)

        self._record(result.capability, encoded, answer, done, alive)

    def refuse_first(
        self,
        result: Result,
        then: Callable[[], None],
        done: ConfirmCallback,
        *,
        alive: Callable[[], bool],
    ) -> None:
        """Record what was never admitted in the same way, and only `then` tell of it.

        `done` is told if that cannot be.
        """
        self._record(REFUSED_KEY, encode(result), then, done, alive)

    def _record(
        self,
        key: str,
        encoded: bytes,
        then: Callable[[], None],
        done: ConfirmCallback,
        alive: Callable[[], bool],
    ) -> None:
        def record() -> None:
            if alive():
                self._records.add_item(key, encoded, recorded)
            else:
                done(BrokerUnavailable(DELIVERED_AGAIN))

        def recorded(error: ManipleError | None) -> None:
            if isinstance(error, BrokerUnavailable):
                record()
            elif isinstance(error, PublishRefused):
                asyncio.get_running_loop().call_later(REFUSED_PAUSE, record)
            elif error is not None:
                done(error)
            else:
                then()

        record()
