"""Keeping input that was refused, with the reason, in `maniple.refused.log`."""

import asyncio
import hashlib
from collections.abc import Mapping

from maniple.amqp import Outgoing, Publisher
from maniple.errors import InvalidMessage, PublishRefused
from maniple.identifiers import new_id
from maniple.messages import MAX_BODY, RefusedInput
from maniple.topology import DEAD, refused_key
from maniple_runtime.metric_names import PUBLISHES_REFUSED
from maniple_runtime.publish.batch_options import REFUSED_PAUSE
from maniple_runtime.publish.confirm import ConfirmCallback, as_ours, tell
from maniple_runtime.telemetry import Metrics

REFUSED_TYPE = "maniple.refused.v1"
KEPT_BYTES = 64 * 1024
MAX_HEADER = 1000


class RefusedLog:
    """Publishes refused bytes; of a body over the limit its first 64 KiB and its hash."""

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        """Publish through `publisher`."""
        self._publisher = publisher
        self._refusals = metrics.counter(PUBLISHES_REFUSED, DEAD.name)
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(
        self, body: bytes, error: InvalidMessage, origin: Mapping[str, str], done: ConfirmCallback
    ) -> None:
        """Keep `body` and why it was refused; `done` when that is confirmed.

        `origin` says where it came from: `routing_key`, `message_id`, `reply_to`, `task_id`.
        """
        about = RefusedInput(
            code=error.code,
            reason=error.message,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            truncated=len(body) > MAX_BODY,
        )
        task = asyncio.get_running_loop().create_task(
            self._publish(_message(body, about, origin), done)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain_log(self) -> None:
        """Return when everything has been kept."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _publish(self, message: Outgoing, done: ConfirmCallback) -> None:
        while True:
            try:
                await self._publisher.publish(message)
            except PublishRefused:
                self._refusals.inc()
                await asyncio.sleep(REFUSED_PAUSE)
            except Exception as error:  # noqa: BLE001 - whatever it was, its message must hear of it
                tell([done], as_ours(error))
                return
            else:
                tell([done], None)
                return


def _message(body: bytes, about: RefusedInput, origin: Mapping[str, str]) -> Outgoing:
    headers = {
        "code": about.code.value,
        "reason": about.reason,
        "size": str(about.size),
        "sha256": about.sha256,
        "truncated": str(about.truncated).lower(),
        **origin,
    }
    return Outgoing(
        DEAD.name,
        refused_key(about.code),
        body[:KEPT_BYTES] if about.truncated else body,
        message_id=new_id(),
        type=REFUSED_TYPE,
        # The broker ends a connection whose header frame is over its limit.
        headers={name: value[:MAX_HEADER] for name, value in headers.items()},
    )
