"""What is asked, published and delivered on a channel, with a broker that a test scripts."""

import asyncio
from typing import Any

import pytest
from pamqp import commands

from maniple.amqp.wire import framing
from maniple.amqp.wire.amqp_errors import (
    AccessRefused,
    AmqpError,
    ChannelLost,
    ConnectionLost,
    NotFound,
    PreconditionFailed,
    ProtocolError,
    PublishFailed,
    PublishImpossible,
    PublishReturned,
)
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message
from scripted_broker import Peer, connected, content, opened, with_channel
from waiting import wait_until

Tasks = list[asyncio.Task[None]]


def publishing(channel: Channel, body: bytes = b"body", **properties: Any) -> asyncio.Task[None]:
    told = Properties(**properties)

    async def publish() -> None:
        await channel.wait_writable()
        await channel.publish(body, exchange="x", routing_key="key", properties=told)

    return asyncio.create_task(publish())


async def published(channel: Channel, peer: Peer, count: int, **properties: Any) -> Tasks:
    """Publish so many, which the broker has got and not confirmed."""
    found = [publishing(channel, **properties) for _ in range(count)]
    for _ in found:
        await peer.published(channel.number)
    return found


async def consuming(channel: Channel, peer: Peer) -> tuple[str, list[Message]]:
    got: list[Message] = []
    starting = asyncio.create_task(channel.basic_consume("q", got.append))
    asked = await peer.expect(commands.Basic.Consume)
    peer.send(commands.Basic.ConsumeOk(asked.consumer_tag), channel.number)
    return await starting, got


async def echoed(connection: Connection, peer: Peer) -> None:
    """Return when all that the broker has sent so far has been taken."""
    heard = connection.heard
    peer.send_raw(b"\x08\x00\x00\x00\x00\x00\x00\xce")
    await wait_until(lambda: connection.heard > heard, every=0.001)


# ---- confirms


async def test_a_publish_returns_when_the_broker_has_confirmed_it() -> None:
    async with with_channel() as (connection, channel, peer):
        publish = publishing(channel, b"data", message_id="one", headers={"a": 1})
        method, properties, data = await peer.published()
        assert (method.exchange, method.routing_key, data) == ("x", "key", b"data")
        assert (properties.message_id, properties.headers) == ("one", {"a": 1})
        await echoed(connection, peer)
        assert not publish.done()
        peer.send(commands.Basic.Ack(1), 1)
        await publish


@pytest.mark.parametrize(
    ("tag", "multiple", "settled"), [(2, True, 2), (0, True, 4), (2, False, 1)]
)
async def test_one_confirm_may_be_of_many(tag: int, multiple: bool, settled: int) -> None:
    async with with_channel() as (connection, channel, peer):
        tasks = await published(channel, peer, 4)
        peer.send(commands.Basic.Ack(tag, multiple=multiple), 1)
        await echoed(connection, peer)
        await wait_until(lambda: sum(one.done() for one in tasks) == settled)
        peer.send(commands.Basic.Ack(0, multiple=True), 1)
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("multiple", [False, True])
async def test_a_publish_that_a_queue_refuses_fails(multiple: bool) -> None:
    async with with_channel() as (_, channel, peer):
        tasks = await published(channel, peer, 2)
        peer.send(commands.Basic.Nack(1 + multiple, multiple=multiple, requeue=False), 1)
        peer.send(commands.Basic.Ack(2), 1)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in done] == [
            PublishFailed,
            PublishFailed if multiple else type(None),
        ]


async def test_confirms_of_what_was_never_published_harm_nobody() -> None:
    async with with_channel() as (_, channel, peer):
        tasks = await published(channel, peer, 1)
        for tag in (0, 7, 2**63 - 1):
            peer.send(commands.Basic.Ack(tag), 1)
        peer.send(commands.Basic.Nack(9), 1)
        peer.send(commands.Basic.Ack(1), 1)
        await asyncio.gather(*tasks)
        assert not channel.is_closed


def returned(message_id: str, number: int = 1, **properties: Any) -> bytes:
    method = commands.Basic.Return(312, "NO_ROUTE", "x", "key")
    frame = framing.method_frame(number, method)
    return frame + content(number, b"body", message_id=message_id, **properties)


async def test_a_return_fails_its_publish_though_it_is_confirmed_then() -> None:
    async with with_channel() as (_, channel, peer):
        (routed,) = await published(channel, peer, 1, message_id="routed")
        (lost,) = await published(channel, peer, 1, message_id="lost")
        peer.send_raw(returned("lost"))
        peer.send(commands.Basic.Ack(2, multiple=True), 1)
        with pytest.raises(PublishReturned, match="NO_ROUTE: x/key"):
            await lost
        await routed


async def test_two_returns_of_one_message_id_are_of_two_publishes() -> None:
    async with with_channel() as (_, channel, peer):
        tasks = await published(channel, peer, 3, message_id="same")
        peer.send_raw(returned("same") + returned("same"))
        peer.send(commands.Basic.Ack(3, multiple=True), 1)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in done] == [PublishReturned, PublishReturned, type(None)]


async def test_the_return_of_a_publish_given_up_is_not_another_ones() -> None:
    async with with_channel() as (_, channel, peer):
        (given_up,) = await published(channel, peer, 1, message_id="same")
        given_up.cancel()
        (again,) = await published(channel, peer, 1, message_id="same")
        peer.send_raw(returned("same"))
        peer.send(commands.Basic.Ack(2, multiple=True), 1)
        await again


async def test_a_return_is_of_the_publish_to_its_place_and_no_other_of_that_id() -> None:
    async with with_channel() as (_, channel, peer):
        properties = Properties(message_id="same")
        elsewhere, lost = (
            channel.publish(
                b"body", exchange="x", routing_key=key, properties=properties, mandatory=True
            )
            for key in ("elsewhere", "key")
        )
        for _ in range(2):
            await peer.published()
        elsewhere.cancel()  # given up: its queue does not answer
        peer.send_raw(returned("same"))
        peer.send(commands.Basic.Ack(2, multiple=True), 1)
        with pytest.raises(PublishReturned, match="x/key"):
            await lost


async def test_a_publish_given_up_is_confirmed_to_nobody_and_harms_no_other() -> None:
    async with with_channel() as (_, channel, peer):
        first, second = await published(channel, peer, 2)
        first.cancel()
        peer.send(commands.Basic.Nack(1), 1)
        peer.send(commands.Basic.Ack(2), 1)
        await second
        assert first.cancelled() or first.cancelling()
        assert channel._confirms == {}


@pytest.mark.parametrize("frame_max", [4096, 131_072])
@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 100_000, 131_065])
async def test_bodies_of_every_size_go_and_come(frame_max: int, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    async with with_channel(frame_max=frame_max) as (_, channel, peer):
        tag, got = await consuming(channel, peer)
        publish = publishing(channel, body)
        assert (await peer.published())[2] == body
        peer.send(commands.Basic.Ack(1), 1)
        await publish
        deliver = commands.Basic.Deliver(tag, 1, False, "x", "key")
        method = deliver.index.to_bytes(4, "big") + deliver.marshal()
        sent = framing.message_frames(1, method, b"\x00\x00", body, frame_max)
        for at in range(0, len(sent), 1000):
            peer.send_raw(sent[at : at + 1000])
            await asyncio.sleep(0)
        await wait_until(lambda: len(got) == 1)
        assert got[0].body == body


async def test_what_cannot_be_published_is_told_and_nothing_of_it_is_sent() -> None:
    async with with_channel(frame_max=4096) as (_, channel, peer):
        with pytest.raises(PublishImpossible, match="255 bytes"):
            await channel.publish(b"", exchange="x", routing_key="k" * 256, properties=Properties())
        with pytest.raises(PublishImpossible, match="properties"):
            await publishing(channel, headers={str(n): "x" * 100 for n in range(100)})
        (good,) = await published(channel, peer, 1)
        peer.send(commands.Basic.Ack(1), 1)
        await good


# ---- what holds back publishes


async def test_a_blocked_connection_holds_back_publishes_but_no_settlements() -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send(commands.Connection.Blocked("memory"))
        await wait_until(lambda: connection.blocked)
        assert await connection.is_blocked()
        given_up, publish = publishing(channel, b"given up"), publishing(channel, b"sent")
        await asyncio.sleep(0)
        given_up.cancel()
        channel.basic_ack(7)
        await peer.expect(commands.Basic.Ack)  # first: nothing was published before it
        peer.send(commands.Connection.Unblocked())
        assert (await peer.published())[2] == b"sent"
        peer.send(commands.Basic.Ack(1), 1)
        await publish
        assert given_up.cancelled()


async def test_publishes_given_up_while_blocked_leave_nothing() -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send(commands.Connection.Blocked("memory"))
        await wait_until(lambda: connection.blocked)
        tasks = [publishing(channel) for _ in range(50)]
        await asyncio.sleep(0)
        for one in tasks:
            one.cancel()
        await asyncio.wait(tasks)
        assert not connection._writers


async def test_a_channel_without_flow_holds_back_its_own_publishes() -> None:
    async with with_channel() as (connection, channel, peer):
        other = await opened(connection, peer, 2)
        peer.send(commands.Channel.Flow(active=False), 1)
        assert not (await peer.expect(commands.Channel.FlowOk, 1)).active
        held, sent = publishing(channel, b"held"), publishing(other, b"sent")
        assert (await peer.published(2))[2] == b"sent"
        peer.send(commands.Channel.Flow(active=True), 1)
        assert (await peer.expect(commands.Channel.FlowOk, 1)).active
        assert (await peer.published(1))[2] == b"held"
        for number in (1, 2):
            peer.send(commands.Basic.Ack(1), number)
        await asyncio.gather(held, sent)


async def test_a_peer_that_does_not_read_holds_back_publishes() -> None:
    async with with_channel() as (connection, channel, peer):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        tasks: Tasks = []
        body = bytes(256 * 1024)
        while connection.writable:
            tasks.append(publishing(channel, body))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(tasks) < 1000, "nothing holds them back"
        before = channel._published
        tasks += [publishing(channel, body) for _ in range(50)]
        await asyncio.sleep(0.01)
        assert channel._published == before
        connection.send_heartbeat()  # it would arrive when nobody needs it any more
        channel.basic_ack(1)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        acks = 0
        for _ in tasks:
            while not isinstance((await peer.frame())[1], commands.Basic.Publish):
                acks += 1
        assert acks
        assert peer.heartbeats == 0


# ---- requests


async def test_requests_are_answered_in_order() -> None:
    async with with_channel() as (_, channel, peer):
        names = ("a", "b", "c")
        tasks = [asyncio.create_task(channel.queue_declare(name)) for name in names]
        for _ in names:
            asked = await peer.expect(commands.Queue.Declare)
            peer.send(commands.Queue.DeclareOk(asked.queue, 1, 2), 1)
        assert [(await one).queue for one in tasks] == list(names)


async def test_a_queue_gives_a_message_or_none() -> None:
    async with with_channel() as (_, channel, peer):
        first, second = (asyncio.create_task(channel.basic_get("q")) for _ in range(2))
        await peer.expect(commands.Basic.Get)
        peer.send(commands.Basic.GetOk(5, True, "x", "key", 3), 1)
        peer.send_raw(content(1, b"got", message_id="one"))
        await peer.answer(commands.Basic.Get, commands.Basic.GetEmpty())
        found = await first
        assert found is not None
        assert (found.tag, found.redelivered, found.body) == (5, True, b"got")
        assert found.properties.message_id == "one"
        assert await second is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [(403, AccessRefused), (404, NotFound), (406, PreconditionFailed), (405, ChannelLost)],
)
async def test_a_channel_that_the_broker_closes_tells_why_and_leaves_the_others(
    code: int, kind: type[ChannelLost]
) -> None:
    async with with_channel() as (connection, channel, peer):
        other = await opened(connection, peer, 2)
        pending: list[asyncio.Future[Any]] = [*await published(channel, peer, 2)]
        pending.append(asyncio.create_task(channel.queue_declare("q")))
        await peer.answer(
            commands.Queue.Declare, commands.Channel.Close(code, "WHY - said so", 50, 10)
        )
        await peer.expect(commands.Channel.CloseOk, 1)
        done = await asyncio.gather(*pending, return_exceptions=True)
        assert [(type(one), getattr(one, "code", 0)) for one in done] == [(kind, code)] * 3
        for refused in (channel.basic_get("q"), channel.basic_consume("q", print)):
            with pytest.raises(kind, match="said so"):
                await refused
        with pytest.raises(kind):
            channel.basic_ack(1)
        with pytest.raises(kind):
            await publishing(channel)
        (publish,) = await published(other, peer, 1)
        peer.send(commands.Basic.Ack(1), 2)
        await publish


async def test_a_reason_that_is_cut_within_a_letter_costs_its_channel_only() -> None:
    async with with_channel() as (connection, channel, peer):
        waits = asyncio.create_task(channel.queue_declare("q", passive=True))
        await peer.expect(commands.Queue.Declare)
        frame = framing.method_frame(1, commands.Channel.Close(404, "NOT_FOUND \u00fc", 50, 10))
        cut = "\u00fc".encode()
        peer.send_raw(frame.replace(cut, cut[:1] + b"."))
        with pytest.raises(NotFound, match="NOT_FOUND"):
            await waits
        assert not connection.closing.done()


async def test_a_channel_number_is_used_again_only_once_the_broker_is_done_with_it() -> None:
    async with with_channel() as (connection, channel, peer):
        closing = asyncio.create_task(channel.close())
        await peer.expect(commands.Channel.Close, 1)
        await opened(connection, peer, 2)
        peer.send(commands.Channel.CloseOk(), 1)
        await closing
        await opened(connection, peer, 1)


async def test_closes_of_both_sides_that_cross_free_the_number_only_at_the_brokers_answer() -> None:
    async with with_channel() as (connection, channel, peer):
        closing = asyncio.create_task(channel.close())
        await peer.expect(commands.Channel.Close, 1)
        peer.send(commands.Channel.Close(404, "NOT_FOUND", 0, 0), 1)
        await peer.expect(commands.Channel.CloseOk, 1)
        await closing
        assert isinstance(channel.closing.exception(), NotFound)
        await opened(connection, peer, 2)
        peer.send(commands.Channel.CloseOk(), 1)
        await echoed(connection, peer)
        await opened(connection, peer, 1)


async def test_a_connection_of_one_channel_has_one_at_a_time() -> None:
    async with with_channel(channel_max=1) as (connection, channel, peer):
        with pytest.raises(ConnectionLost, match="all 1 channels"):
            await connection.channel()
        closing = asyncio.create_task(channel.close())
        await peer.answer(commands.Channel.Close, commands.Channel.CloseOk())
        await closing
        await opened(connection, peer, 1)


@pytest.mark.parametrize("answer", ["empty", "message", "closed"])
async def test_a_request_given_up_closes_its_channel_and_nothing_else(answer: str) -> None:
    async with with_channel() as (connection, channel, peer):
        waiting = asyncio.create_task(channel.basic_get("q"))
        await peer.expect(commands.Basic.Get)
        waiting.cancel()
        await peer.expect(commands.Channel.Close, 1)
        if answer == "empty":  # it was on its way when the broker was told
            peer.send(commands.Basic.GetEmpty(), 1)
        elif answer == "message":
            peer.send(commands.Basic.GetOk(5, False, "x", "key", 3), 1)
            peer.send_raw(content(1, b"got") + returned("one"))
        with pytest.raises(ChannelLost):
            channel.basic_ack(5)
        peer.send(commands.Channel.CloseOk(), 1)
        await wait_until(channel.closing.done)
        await opened(connection, peer, 1)
        assert waiting.cancelled()


async def test_the_answer_of_a_request_given_up_is_not_taken_for_the_next_ones() -> None:
    async with with_channel() as (_, channel, peer):
        waiting = asyncio.create_task(channel.queue_declare("q"))
        await peer.expect(commands.Queue.Declare)
        waiting.cancel()
        await peer.expect(commands.Channel.Close, 1)
        with pytest.raises(ChannelLost):
            await channel.queue_declare("another")
        peer.send(commands.Queue.DeclareOk("q", 0, 0), 1)
        peer.send(commands.Channel.CloseOk(), 1)
        await wait_until(channel.closing.done)
        assert isinstance(channel.closing.exception(), ChannelLost)


async def test_opening_a_channel_that_is_given_up_leaves_its_number_until_the_broker_is_done() -> (
    None
):
    async with connected() as (connection, peer):
        opening = asyncio.create_task(connection.channel())
        await peer.expect(commands.Channel.Open, 1)
        opening.cancel()
        await peer.expect(commands.Channel.Close, 1)
        await opened(connection, peer, 2)
        peer.send(commands.Channel.OpenOk(), 1)
        peer.send(commands.Channel.CloseOk(), 1)
        await echoed(connection, peer)
        await opened(connection, peer, 1)


# ---- consumers


async def test_deliveries_come_to_their_consumer_and_are_settled() -> None:
    async with with_channel() as (_, channel, peer):
        first, one = await consuming(channel, peer)
        second, two = await consuming(channel, peer)
        peer.deliver(first, 1, b"one")
        peer.deliver(second, 2, b"")
        await wait_until(lambda: bool(one and two))
        assert (one[0].body, two[0].body, two[0].tag, two[0].exchange) == (b"one", b"", 2, "x")
        channel.basic_ack(1, multiple=True)
        channel.basic_reject(2, requeue=True)
        ack = await peer.expect(commands.Basic.Ack, 1)
        assert (ack.delivery_tag, ack.multiple) == (1, True)
        reject = await peer.expect(commands.Basic.Reject, 1)
        assert (reject.delivery_tag, reject.requeue) == (2, True)


async def test_a_delivery_that_cannot_be_handled_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with with_channel() as (_, channel, peer):
        tag, got = await consuming(channel, peer)

        def take(message: Message) -> None:
            assert message.tag > 1
            got.append(message)

        channel._consumers[tag] = take
        peer.deliver(tag, 1, b"one")
        peer.deliver(tag, 2, b"two")
        await wait_until(lambda: [message.tag for message in got] == [2])
        assert "a delivery was not handled" in caplog.text


async def test_what_is_on_its_way_to_a_consumer_comes_before_its_end() -> None:
    async with with_channel() as (_, channel, peer):
        tag, got = await consuming(channel, peer)
        ending = asyncio.create_task(channel.basic_cancel(tag))
        await peer.expect(commands.Basic.Cancel)
        peer.deliver(tag, 1, b"late")
        peer.send(commands.Basic.CancelOk(tag), 1)
        await ending
        assert [message.body for message in got] == [b"late"]


async def test_a_delivery_that_no_consumer_is_there_for_goes_back_with_its_channel() -> None:
    async with with_channel() as (_, channel, peer):
        peer.deliver("unknown", 1, b"one")
        await peer.expect(commands.Channel.Close, 1)
        peer.deliver("unknown", 2, b"another on its way")
        peer.send(commands.Channel.CloseOk(), 1)
        await wait_until(channel.closing.done)


@pytest.mark.parametrize("capable", [False, True])
async def test_a_consumer_that_the_broker_ends_is_told_of_and_answered_if_it_waits_for_that(
    capable: bool,
) -> None:
    async with with_channel(accept_consumer_cancel_ok=capable) as (connection, channel, peer):
        tag, _ = await consuming(channel, peer)
        told: list[str] = []
        channel.on_cancelled |= {lambda: told.append("told"), lambda: 1 // 0}
        peer.send(commands.Basic.Cancel(tag, nowait=True), 1)
        await wait_until(lambda: told == ["told"])
        assert connection.answers_cancels is capable
        channel.basic_ack(1)
        if capable:
            assert (await peer.expect(commands.Basic.CancelOk, 1)).consumer_tag == tag
        await peer.expect(commands.Basic.Ack, 1)
        assert tag not in channel._consumers


# ---- content that is not as it was said


HEADLESS = {
    "a body before its header": content(1, b"12345")[-13:],
    "another method": framing.method_frame(1, commands.Basic.QosOk()),
    "a body that is too long": content(1, b"12345", 4),
    "a method before all of the body": content(1, b"12345", 6)
    + framing.method_frame(1, commands.Basic.QosOk()),
    "a second header": content(1, b"", 6) + content(1, b"", 6),
    "a heartbeat on the channel": b"\x08\x00\x01\x00\x00\x00\x00\xce",
}


@pytest.mark.parametrize("data", HEADLESS.values(), ids=HEADLESS)
async def test_content_that_is_not_as_it_was_said_ends_the_connection_with_a_reason(
    data: bytes,
) -> None:
    async with with_channel() as (connection, channel, peer):
        tag, got = await consuming(channel, peer)
        (publish,) = await published(channel, peer, 1)
        peer.send(commands.Basic.Deliver(tag, 1, False, "x", "key"), 1)
        peer.send_raw(data)
        with pytest.raises(ProtocolError):
            await publish
        assert isinstance(connection.closing.exception(), ProtocolError)
        await peer.until_end()
        assert not got


@pytest.mark.parametrize("kind", [2, 3])
async def test_content_without_its_method_ends_the_connection_with_a_reason(kind: int) -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send_raw(framing.frame_of(kind, 1, bytes(14)))
        await wait_until(connection.closing.done)
        assert isinstance(channel.closing.exception(), ProtocolError)


async def test_a_lost_connection_fails_all_that_waits_with_one_reason() -> None:
    async with with_channel() as (connection, channel, peer):
        waits: list[asyncio.Future[Any]] = [*await published(channel, peer, 3)]
        waits.append(asyncio.create_task(channel.basic_get("q")))
        waits.append(asyncio.create_task(channel.queue_declare("q")))
        waits.append(asyncio.create_task(connection.channel()))
        await asyncio.sleep(0)
        await peer.hang_up()
        done = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(one, ConnectionLost) for one in done), done
        await channel.close()
        with pytest.raises(AmqpError):
            channel.basic_ack(1)
