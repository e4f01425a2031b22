"""Addresses of RabbitMQ's direct reply-to, as brokers from 3.10 on hand them out. Pure.

    amq.rabbitmq.reply-to.<base64 of a process id>.<base64 of a 16-byte key>

The process id stands in Erlang's external term format: version 131, tag 88, an atom `reply@<hash of
the node's name>`, and its numbers. RabbitMQ decodes the address within the publishing channel, and
3.10 closes the whole connection over one that it cannot decode. One that is sound may still be of a
node that is gone, over which 3.10 does the same: so replies have a connection of their own, and the
first to a node is sent with no other such beside it (`maniple.amqp.suspect_addresses`).

It is no queue: RabbitMQ before 4.2 returns what is published there as `mandatory`, whole, although
it has delivered it; and no message there waits for a queue's leader.
"""

import re
from base64 import b64decode
from binascii import Error
from functools import lru_cache

PREFIX = "amq.rabbitmq.reply-to."
NO_KEY = "A" * 22 + "=="

_TOKEN = re.compile(r"([A-Za-z0-9+/]+={0,2})\.[A-Za-z0-9+/]{22}==")
_PROCESS = re.compile(
    rb"\x83\x58"
    rb"(?:\x76\x00(?P<long>.)|\x77(?P<short>.))"  # a UTF-8 atom, its length in two bytes or one
    rb"(?P<node>reply@[0-9]{1,9})"
    rb".{12}",  # id, serial and creation
    re.DOTALL,
)


def is_direct(reply_to: str) -> bool:
    """Tell whether an address is one of direct reply-to, sound or not."""
    return reply_to.startswith(PREFIX)


@lru_cache(maxsize=1024)
def node_of(reply_to: str) -> str | None:
    """Return the node part of an address of direct reply-to; None of any other."""
    token = _TOKEN.fullmatch(reply_to, len(PREFIX)) if is_direct(reply_to) else None
    if token is None:
        return None
    try:
        process = _PROCESS.fullmatch(b64decode(token[1], validate=True))
    except Error:
        return None
    if process is None:
        return None
    length: bytes = process["long"] or process["short"]
    node: bytes = process["node"]
    return node.decode() if length[0] == len(node) else None


def of_nobody(reply_to: str) -> str:
    """Return an address of the same node without a consumer."""
    return f"{reply_to.rpartition('.')[0]}.{NO_KEY}"
