"""What is settled of deliveries when their connection is lost: nothing of the next one's."""

from typing import Any

from channels import Channel, until_idle
from maniple.amqp.delivery import Delivery, UnsettledDeliveries
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message


def on(channel: Any) -> UnsettledDeliveries:
    deliveries = UnsettledDeliveries("a.queue", lambda _: None)
    deliveries.use_channel(channel)
    return deliveries


def delivered(deliveries: UnsettledDeliveries, tag: int) -> Delivery:
    """Return a delivery of the present channel that is not settled."""
    message = Message(tag, False, "", "a.queue", Properties(), b"1")
    delivery = Delivery(deliveries, message, deliveries.generation)
    deliveries.unsettled[tag] = delivery
    return delivery


async def test_a_delivery_is_dead_as_soon_as_its_connection_is_lost() -> None:
    deliveries = on(Channel())
    delivery = delivered(deliveries, 1)
    assert delivery.alive
    deliveries.lost()
    assert not delivery.alive


async def test_what_was_settled_of_a_lost_connection_settles_nothing_of_the_next_one() -> None:
    deliveries = on(Channel())
    old = [delivered(deliveries, tag) for tag in (1, 2)]
    old[0].ack()
    old[1].reject()
    deliveries.lost()  # before any of it was written
    channel: Any = Channel()
    deliveries.use_channel(channel)
    new = [delivered(deliveries, tag) for tag in (1, 2, 3)]
    new[2].ack()
    old[0].ack()
    old[1].reject()
    await until_idle()
    assert channel.told == ["ack 3"]
    assert list(deliveries.unsettled.values()) == new[:2]
