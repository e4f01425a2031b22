"""A connection's life: what ends it, what keeps it, and that nothing hangs on it."""

import asyncio
import os
import signal
from typing import Any

import pytest
from pamqp import commands

from maniple.amqp.wire import broker_connection as wire_connection
from maniple.amqp.wire import requests
from maniple.amqp.wire.amqp_errors import (
    AmqpError,
    ChannelLost,
    ConnectionLost,
    ConnectionRefused,
    ProtocolError,
)
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.framing import method_frame
from maniple.amqp.wire.properties import Properties
from scripted_broker import (
    SECONDS,
    Peer,
    ScriptedBroker,
    connected,
    every_method,
    opened,
    with_channel,
)
from waiting import wait_until

HARMLESS = ("Blocked", "Unblocked")
WHILE_OPEN = [
    method for method in every_method() if method.name.removeprefix("Connection.") not in HARMLESS
]
# What a channel takes at any time, on which nothing is asked.
TAKEN = {
    "Basic.Ack",
    "Basic.Nack",
    "Basic.Cancel",
    "Basic.Deliver",
    "Basic.GetOk",
    "Basic.Return",
    "Channel.Close",
    "Channel.CloseOk",
    "Channel.Flow",
}
of_its_name = pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")


@pytest.mark.parametrize("method", WHILE_OPEN, ids=lambda method: method.name)
@of_its_name
async def test_every_method_on_the_connection_that_may_not_come_ends_it_with_a_reason(
    method: Any,
) -> None:
    async with with_channel() as (connection, channel, peer):
        waiting = asyncio.create_task(channel.basic_get("q"))
        await peer.expect(commands.Basic.Get)
        peer.send(method, 0)
        with pytest.raises(ConnectionLost):
            await waiting
        kind = ConnectionRefused if method.name == "Connection.Close" else ProtocolError
        assert isinstance(connection.closing.exception(), kind)
        await peer.until_end()


@pytest.mark.parametrize("method", every_method(), ids=lambda method: method.name)
@of_its_name
async def test_every_method_on_a_channel_that_may_not_come_ends_the_connection_with_a_reason(
    method: Any,
) -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send(method, 1)
        if method.name in TAKEN:
            await wait_until(lambda: connection.heard > 5 or channel.closing.done(), every=0.001)
            assert not connection.closing.done()
        else:
            await wait_until(connection.closing.done, every=0.001)
            assert isinstance(channel.closing.exception(), ProtocolError)


@pytest.mark.parametrize("method", every_method(), ids=lambda method: method.name)
@of_its_name
async def test_every_method_on_a_channel_that_is_not_open_ends_the_connection_with_a_reason(
    method: Any,
) -> None:
    async with connected() as (connection, peer):
        peer.send(method, 7)
        peer.send(commands.Connection.CloseOk())  # nobody has asked for that
        await wait_until(connection.closing.done, every=0.001)
        assert isinstance(connection.closing.exception(), ProtocolError)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x01\x00\x00\x00\x00\x00\x03\x00\x0a\x00\xce",
        b"\x01\x00\x01\x00\x00\x00\x04\xff\xff\xff\xff\xce",
        b"\x01\x00\x01\xff\xff\xff\xff\x00",
        b"\x02\x00\x00\x00\x00\x00\x00\xce",
        b"\x08\x00\x00\x00\x00\x00\x00\x00",
        b"\x08\x00\x05\x00\x00\x00\x00\xce",
        bytes(64),
    ],
)
async def test_rubbish_ends_the_connection_with_a_reason(rubbish: bytes) -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send_raw(rubbish)
        await wait_until(connection.closing.done, every=0.001)
        for lost in (connection, channel):
            assert isinstance(lost.closing.exception(), ProtocolError)
        await peer.until_end()


async def test_a_defect_of_ours_ends_the_connection_rather_than_leaving_it_deaf(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_channel() as (connection, channel, peer):
        monkeypatch.setattr(channel, "receive", lambda *_: 1 // 0)
        peer.send(commands.Basic.Ack(1), 1)
        await wait_until(connection.closing.done, every=0.001)
        assert isinstance(connection.closing.exception(), ProtocolError)
        assert "was not handled" in caplog.text


async def test_the_broker_closes_a_connection_with_its_reason_and_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with with_channel() as (connection, channel, peer):
        peer.send(commands.Connection.Close(320, "CONNECTION_FORCED - by a test", 0, 0))
        peer.send(commands.Basic.QosOk(), 1)  # what comes behind it says nothing any more
        peer.send(commands.Basic.QosOk(), 0)
        await peer.expect(commands.Connection.CloseOk, 0)
        for lost in (connection, channel):
            error = lost.closing.exception()
            assert isinstance(error, ConnectionRefused)
            assert (error.code, error.text) == (320, "CONNECTION_FORCED - by a test")
        assert await peer.until_end() == b""
        assert "is dropped" not in caplog.text


@pytest.mark.parametrize("frame_max", [4096, 131_072])
async def test_a_frame_that_is_larger_than_was_agreed_ends_the_connection_before_it_has_come(
    frame_max: int,
) -> None:
    async with with_channel(frame_max=frame_max) as (connection, _, peer):
        peer.send_raw(b"\x03\x00\x01" + (frame_max - 7).to_bytes(4, "big") + b"x")
        await wait_until(connection.closing.done, every=0.001)
        with pytest.raises(ProtocolError, match=f"{frame_max + 1} bytes, where {frame_max}"):
            await connection.channel()


async def test_closing_waits_for_the_broker_and_fails_what_is_under_way() -> None:
    async with with_channel() as (connection, channel, peer):
        waiting = asyncio.create_task(channel.basic_get("q"))
        await peer.expect(commands.Basic.Get)
        closing = asyncio.create_task(connection.close())
        again = asyncio.create_task(connection.close())
        await peer.expect(commands.Connection.Close)
        assert not closing.done()
        peer.send(commands.Connection.CloseOk())
        await asyncio.gather(closing, again)
        assert connection.closing.done()
        assert connection.closing.exception() is None
        with pytest.raises(AmqpError):
            await waiting
        await connection.close()
        for refused in (connection.channel(), channel.basic_get("q")):
            with pytest.raises(AmqpError):
                await refused


async def test_closes_of_both_sides_that_cross_end_the_connection() -> None:
    async with connected() as (connection, peer):
        closing = asyncio.create_task(connection.close())
        await peer.expect(commands.Connection.Close)
        peer.send(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        await peer.expect(commands.Connection.CloseOk)
        await closing
        assert isinstance(connection.closing.exception(), ConnectionRefused)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_silent_broker_does_not_keep_a_connection_from_closing(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_connection, "CLOSE_TIMEOUT", 0.1)
    async with with_channel() as (connection, channel, peer):
        if not reads:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(40):
                confirm = channel.publish(
                    bytes(2**20), exchange="x", routing_key="k", properties=Properties()
                )
                confirm.add_done_callback(lambda done: done.exception())
        await connection.close()
        assert isinstance(connection.closing.exception(), ConnectionLost)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.until_end()


async def test_a_connection_that_is_dropped_ends_at_once_and_says_so_to_all() -> None:
    async with with_channel() as (connection, channel, peer):
        waiting = asyncio.create_task(channel.basic_get("q"))
        await peer.expect(commands.Basic.Get)
        connection.abort()
        connection.abort()
        assert connection.closing.done()
        assert channel.is_closed
        with pytest.raises(ConnectionLost, match="dropped"):
            await waiting
        await peer.until_end()
        await connection.close()


async def test_a_connection_that_was_never_opened_can_be_closed() -> None:
    for end in (lambda one: one.close(), lambda one: asyncio.sleep(0, one.abort())):
        connection = Connection("amqp://127.0.0.1:1/dev")
        await end(connection)
        assert connection.closing.done()


async def test_a_connection_that_is_dropped_while_it_opens_is_not_opened() -> None:
    async with asyncio.timeout(SECONDS), ScriptedBroker() as broker:
        connection = Connection(broker.url())
        opening = asyncio.create_task(connection.open(SECONDS))
        await asyncio.sleep(0)
        connection.abort()
        with pytest.raises(ConnectionLost):
            await opening


async def test_heartbeats_are_sent_in_their_turn_and_when_they_are_asked_for() -> None:
    async with with_channel("heartbeat=1") as (connection, channel, peer):
        before, heard = peer.heartbeats, connection.heard
        for _ in range(3):
            connection.send_heartbeat()
        channel.basic_ack(1)
        await peer.expect(commands.Basic.Ack)
        assert peer.heartbeats >= before + 3
        before = peer.heartbeats
        reading = asyncio.create_task(peer.frame())
        await wait_until(lambda: peer.heartbeats >= before + 2)
        peer.send_raw(b"\x08\x00\x00\x00\x00\x00\x00\xce")
        await wait_until(lambda: connection.heard > heard)
        assert not connection.closing.done()
        reading.cancel()


async def test_a_connection_that_has_ended_sends_no_heartbeats() -> None:
    async with with_channel("heartbeat=1") as (connection, _, peer):
        await peer.hang_up()
        await wait_until(connection.closing.done)
        assert connection._heartbeats is not None
        assert connection._heartbeats.cancelled()
        connection.send_heartbeat()


async def test_a_connection_that_is_lost_in_the_turn_in_which_it_opens_is_not_open() -> None:
    async def open_and_close(peer: Peer) -> None:
        await peer.start()
        await peer.expect(commands.Connection.StartOk)
        peer.send(commands.Connection.Tune(7, 4096, 0))
        await peer.expect(commands.Connection.TuneOk)
        await peer.expect(commands.Connection.Open)
        close = commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0)
        both = (commands.Connection.OpenOk(), close)
        peer.send_raw(b"".join(method_frame(0, one) for one in both))

    async with ScriptedBroker(open_and_close) as broker:
        connection = Connection(broker.url("heartbeat=1"))
        with pytest.raises(ConnectionRefused, match="FORCED"):
            await connection.open(SECONDS)
        assert connection._heartbeats is None


async def test_a_channel_whose_end_the_broker_does_not_answer_is_left_and_keeps_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "CLOSE_TIMEOUT", 0.1)
    async with with_channel() as (connection, channel, peer):
        await channel.close()
        assert channel.is_closed
        assert not channel.closing.done()
        await peer.expect(commands.Channel.Close, 1)
        assert (await opened(connection, peer, 2)).number == 2


async def test_what_is_sent_in_one_turn_goes_out_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with with_channel() as (connection, channel, peer):
        writes: list[bytes] = []
        assert connection._transport is not None
        write = connection._transport.write
        monkeypatch.setattr(
            connection, "_transport", _Counted(connection._transport, writes, write)
        )
        for tag in range(1, 4):
            channel.basic_ack(tag)
        for tag in range(1, 4):
            assert (await peer.expect(commands.Basic.Ack)).delivery_tag == tag
        assert len(writes) == 1


class _Counted:
    """A transport that keeps what is written."""

    def __init__(self, transport: Any, writes: list[bytes], write: Any) -> None:
        self._transport, self._writes, self._write = transport, writes, write

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def lives(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_connection_ends_with_its_process_though_a_forked_child_lives_on() -> None:
    async with connected() as (connection, peer):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(1)
        try:
            connection.abort()
            assert await peer.until_end() == b""
            assert lives(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, pid, 0)


async def test_what_is_asked_of_a_dropped_connection_is_told_why() -> None:
    async with with_channel() as (connection, channel, peer):
        other = await opened(connection, peer, 2)
        connection.abort()
        for one in (channel, other):
            with pytest.raises(ConnectionLost, match="dropped"):
                await one.queue_declare("q")
        assert not isinstance(connection.closing.exception(), ChannelLost)
