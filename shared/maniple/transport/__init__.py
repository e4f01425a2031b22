"""The AMQP connections of the hot path: supervised, confirmed, and rebuilt whole.

A `Link` owns one connection. Whenever the connection or any channel on it is lost, everything on it
is torn down and built again with backoff and jitter: so there is exactly one consumer per queue,
no acknowledgement ever reaches a channel that did not deliver, and publishes that were not
confirmed are sent again under the same message ids.
"""

from aiormq import Connection

from maniple.transport.consumer import Consumer, Delivery
from maniple.transport.declare import declare, declare_queue, declare_topology
from maniple.transport.leftover import Leftover, leftover
from maniple.transport.link import Link
from maniple.transport.listener import Inspector, Listener, QueueView
from maniple.transport.publisher import Outgoing, Publisher

__all__ = [
    "Connection",
    "Consumer",
    "Delivery",
    "Inspector",
    "Leftover",
    "Link",
    "Listener",
    "Outgoing",
    "Publisher",
    "QueueView",
    "declare",
    "declare_queue",
    "declare_topology",
    "leftover",
]
