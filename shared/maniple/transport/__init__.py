"""The AMQP connections of the hot path: supervised, confirmed, and rebuilt whole.

A `Link` owns one connection. Whenever the connection is lost, or a channel of it that is not a
consumer's, everything on it is torn down and built again with backoff and jitter: so there is
exactly one consumer per queue, no acknowledgement ever reaches a channel that did not deliver, and
publishes that were not confirmed are sent again under the same message ids. A consumer has a
`Keeper`, which opens it again by itself: what is wrong with one queue costs no other.
"""

from aiormq import Connection

from maniple.transport.budget import TASK_BYTES, ByteBudget
from maniple.transport.consumer import Consumer
from maniple.transport.declare import declare, declare_queue, declare_topology
from maniple.transport.delivery import Delivery
from maniple.transport.keeper import Keeper
from maniple.transport.leftover import Leftover, leftover
from maniple.transport.link import Link
from maniple.transport.listener import Inspector, Listener, QueueView
from maniple.transport.publisher import Outgoing, Publisher
from maniple.transport.pull import Pull, Pulls
from maniple.transport.scouts import Scouts
from maniple.transport.suspects import Suspects

__all__ = [
    "TASK_BYTES",
    "ByteBudget",
    "Connection",
    "Consumer",
    "Delivery",
    "Inspector",
    "Keeper",
    "Leftover",
    "Link",
    "Listener",
    "Outgoing",
    "Publisher",
    "Pull",
    "Pulls",
    "QueueView",
    "Scouts",
    "Suspects",
    "declare",
    "declare_queue",
    "declare_topology",
    "leftover",
]
