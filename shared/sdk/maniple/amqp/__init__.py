"""The AMQP connections of the hot path: supervised, confirmed, and rebuilt whole.

A `AmqpConnection` owns one connection. Whenever the connection is lost, or a channel of it that is
not a consumer's, everything on it is torn down and built again with backoff and jitter: so there is
exactly one consumer per queue, no acknowledgement ever reaches a channel that did not deliver, and
publishes that were not confirmed are sent again under the same message ids. A consumer has a
`Subscription`, which opens it again by itself: what is wrong with one queue costs no other.
"""

from maniple.amqp.byte_budget import TASK_BYTES, ByteBudget, Length, length_of
from maniple.amqp.connection import AmqpConnection
from maniple.amqp.consumer import Consumer
from maniple.amqp.declare import declare, declare_queue, declare_topology
from maniple.amqp.delivery import Delivery
from maniple.amqp.first_publish import FirstPublishes
from maniple.amqp.listener import Inspector, Listener, QueueView
from maniple.amqp.orphaned_queue import OrphanedQueue, leftover
from maniple.amqp.outgoing import Outgoing
from maniple.amqp.publisher import Publisher
from maniple.amqp.pull import Pull, Pulls
from maniple.amqp.subscription import Subscription
from maniple.amqp.suspect_addresses import SuspectAddresses
from maniple.amqp.wire.broker_connection import Connection

__all__ = [
    "TASK_BYTES",
    "AmqpConnection",
    "ByteBudget",
    "Connection",
    "Consumer",
    "Delivery",
    "FirstPublishes",
    "Inspector",
    "Length",
    "Listener",
    "OrphanedQueue",
    "Outgoing",
    "Publisher",
    "Pull",
    "Pulls",
    "QueueView",
    "Subscription",
    "SuspectAddresses",
    "declare",
    "declare_queue",
    "declare_topology",
    "leftover",
    "length_of",
]
