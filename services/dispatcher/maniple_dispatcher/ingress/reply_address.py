"""Addresses of direct reply-to that come with submissions: those of no node are refused."""

from collections.abc import Callable, Coroutine
from typing import Any

from maniple.amqp import Outgoing, Publisher
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import RESULT_TYPE
from maniple.topology import DEFAULT
from maniple_runtime.direct_replies import node_of, of_nobody
from maniple_runtime.publish.confirm import as_ours

MOST = 16  # that are tried at a time


class ReplyAddressCheck:
    """Tries each node once on a connection, before anybody has a reply for it.

    What is tried is an address of that node at which nobody listens. Until that is answered, what
    names the node is admitted: nobody knows.
    """

    def __init__(
        self, replier: Publisher, spawn: Callable[[Coroutine[Any, Any, None], str], object]
    ) -> None:
        """Try by `replier`, in tasks that `spawn` owns."""
        self._replier = replier
        self._spawn = spawn
        self._trying: set[str] = set()

    def check(self, reply_to: str) -> None:
        """Raise `InvalidMessage` for an address of a node that the cluster does not have."""
        node = node_of(reply_to)
        if node is None:
            return
        if self._replier.shuns(reply_to):
            raise InvalidMessage(
                ErrorCode.FORBIDDEN, "reply_to is of a node that is none of the broker's"
            )
        if self._replier.trusts(reply_to) or node in self._trying or len(self._trying) >= MOST:
            return
        self._trying.add(node)
        self._spawn(self._try(node, reply_to), f"try replies to {node}")

    async def _try(self, node: str, reply_to: str) -> None:
        message = Outgoing(
            DEFAULT.name,
            of_nobody(reply_to),
            b"",
            message_id=new_id(),
            type=RESULT_TYPE,
            persistent=False,
            mandatory=False,
        )
        try:
            await self._replier.publish(message)
        except Exception as error:  # noqa: BLE001 - it must not cost the process
            as_ours(error)  # what was to be learnt, the replier knows now
        finally:
            self._trying.discard(node)
