"""Of an address that costs the connection nobody else's messages are lost."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from channels import until_idle
from maniple.amqp import Outgoing, Publisher, SuspectAddresses
from maniple.amqp.suspect_addresses import (
    FREE_LOSSES,
    LOSS_SECONDS,
    MOST_KNOWN,
    SHUNNED_SECONDS,
)
from maniple.amqp.wire.amqp_errors import INTERNAL_ERROR, ConnectionLost, ConnectionRefused
from maniple.errors import PublishRefused
from maniple.timings import Amqp
from maniple_runtime.direct_replies import node_of, of_nobody

TIMES = Amqp(confirm=3.0, answer=2.0)
ADDRESS = (
    "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMDQzNDUzMzIAAAN9AAAAAGsM0uk=.mo0tGG4NqEGLXoLMF/70xw=="
)


def kind_of(key: str) -> str | None:
    """Return the letters of an address such as `a:1`; any other is harmless."""
    return key.partition(":")[0] if ":" in key else None


class Broker:
    """Ends the connection over addresses of kinds that are `gone`; confirms the others at once.

    What goes to `slow` is confirmed only when another message is.
    """

    def __init__(self, *, says_so: bool) -> None:
        self.gone = {"gone"}
        self.sent: list[str] = []
        self.taken: list[str] = []
        self.losses = 0
        self.flaps = 0
        """How often what goes to a sound node loses the connection for another reason."""
        self._says_so = says_so
        self._open: dict[asyncio.Future[None], str] = {}
        link: Any = SimpleNamespace(
            times=TIMES, add_endpoint=lambda *_: None, wait_up=self._up, suspect=self._suspect
        )
        self.publisher = Publisher(link, max_losses=3, suspects=SuspectAddresses(kind_of))

    async def _up(self) -> None: ...

    def _suspect(self) -> None: ...

    async def channel(self, **_: Any) -> Any:
        return SimpleNamespace(
            wait_writable=self._up, publish=self.publish, basic_qos=self._up, writable=True
        )

    async def connect(self) -> None:
        await self.publisher.open(self)  # type: ignore[arg-type]  # a fake

    def publish(self, body: bytes, **told: Any) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._publish(body, **told))

    async def _publish(self, _body: bytes, *, routing_key: str, **_: Any) -> None:
        self.sent.append(routing_key)
        await asyncio.sleep(0)
        if kind_of(routing_key) in self.gone:
            await self.lose()
            raise self._error()
        if self.flaps and kind_of(routing_key):
            self.flaps -= 1
            await self.lose()
            raise ConnectionLost
        if routing_key == "slow":
            done = asyncio.get_running_loop().create_future()
            self._open[done] = routing_key
            await done
        self.taken.append(routing_key)

    def _error(self) -> Exception:
        return ConnectionRefused(INTERNAL_ERROR, "no") if self._says_so else ConnectionLost()

    async def lose(self) -> None:
        self.losses += 1
        self.publisher.lost()
        for waiting in self._open:
            waiting.set_exception(self._error())
        self._open.clear()
        await self.connect()

    async def wait(self, seconds: float) -> None:
        """Advance time."""
        for _ in range(TIMES.ticks(seconds)):
            self.publisher.overdue()
            await until_idle()

    def confirm(self) -> None:
        for waiting in self._open:
            waiting.set_result(None)
        self._open.clear()


async def publish(broker: Broker, key: str) -> bool:
    """Publish to an address; tell whether it was taken, and not given up."""
    try:
        await broker.publisher.publish(Outgoing("", key, b"", message_id=key, type="t"))
    except PublishRefused:
        return False
    return True


@pytest.fixture(params=[True, False], ids=["the broker says so", "it says nothing"])
async def broker(request: pytest.FixtureRequest) -> Broker:
    made = Broker(says_so=request.param)
    await made.connect()
    return made


async def test_its_like_cost_the_connection_once_in_a_minute_if_the_broker_says_so() -> None:
    broker = Broker(says_so=True)
    await broker.connect()
    assert not any([await publish(broker, f"gone:{number}") for number in range(10)])
    assert broker.losses == 1
    assert broker.publisher.shuns("gone:11")
    assert not broker.publisher.shuns("other:1")
    await broker.wait(SHUNNED_SECONDS + 1)
    assert not broker.publisher.shuns("gone:11")  # the node may be back
    assert not await publish(broker, "gone:11")
    assert broker.losses == 2


async def test_its_like_cost_the_connection_now_and_then_if_the_broker_says_nothing() -> None:
    broker = Broker(says_so=False)
    await broker.connect()
    sent = [asyncio.create_task(publish(broker, f"gone:{number}")) for number in range(8)]
    await asyncio.wait(sent, timeout=0.2)
    assert FREE_LOSSES <= broker.losses <= FREE_LOSSES + 2
    assert not broker.publisher.shuns("gone:11")
    before = broker.losses
    await broker.wait(3 * LOSS_SECONDS)
    assert before < broker.losses <= before + 4
    await broker.wait(200)
    assert not any(await asyncio.gather(*sent))


async def test_a_sound_node_is_not_shunned_for_losses_that_have_other_reasons() -> None:
    broker = Broker(says_so=False)
    await broker.connect()
    broker.flaps = 2
    assert await publish(broker, "good:1")
    assert not broker.publisher.shuns("good:2")
    assert await publish(broker, "good:2")
    assert broker.losses == 2


async def test_nodes_that_have_answered_before_do_not_wait_for_strangers() -> None:
    broker = Broker(says_so=True)
    await broker.connect()
    broker.gone = {f"gone{number}" for number in range(50)}
    assert await publish(broker, "good:0")
    await broker.lose()
    sent = [asyncio.create_task(publish(broker, f"{kind}:1")) for kind in sorted(broker.gone)]
    innocent = asyncio.create_task(publish(broker, "good:1"))
    async with asyncio.timeout(2):
        assert await innocent
    assert broker.sent.index("good:1") <= 3
    for task in sent:
        task.cancel()


async def test_strangers_cost_the_connection_no_more_than_now_and_then() -> None:
    broker = Broker(says_so=True)
    await broker.connect()
    broker.gone = {f"gone{number:02}" for number in range(50)}
    sent = [asyncio.create_task(publish(broker, f"{kind}:1")) for kind in sorted(broker.gone)]
    await asyncio.wait(sent, timeout=0.2)
    assert FREE_LOSSES <= broker.losses <= FREE_LOSSES + 1
    before = broker.losses
    other = [asyncio.create_task(publish(broker, f"new:{number}")) for number in range(3)]
    broker.gone -= {f"gone{number:02}" for number in range(12, 50)}  # they were not gone, after all
    for _ in range(12):
        await broker.wait(LOSS_SECONDS)
    assert before < broker.losses <= before + 12
    assert all(await asyncio.gather(*other))
    assert sum(await asyncio.gather(*sent)) == 38


async def test_of_many_that_wait_for_one_stranger_the_first_speaks_for_all() -> None:
    suspects = SuspectAddresses(kind_of)
    for number in range(FREE_LOSSES + 1):
        suspects.blame(f"gone{number}:1", 0, shunned=60, held=10, sure=True)
    order: list[str] = []

    async def send(key: str) -> None:
        async with suspects.alone(key):
            order.append(key)
            suspects.record_answer(key)

    keys = ["a:1", "b:1", "a:2", "b:2", "gone0:2"]
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(send(key))
        await until_idle()
        assert order == ["gone0:2"]  # it is shunned, which whoever sends it finds
        suspects.set_time(9)
        await until_idle()
        assert len(order) == 1
        suspects.set_time(10)
    assert sorted(order[1:]) == ["a:1", "a:2", "b:1", "b:2"]
    assert not suspects._lines


async def test_what_was_under_way_beside_them_is_sent_again_however_many_there_are(
    broker: Broker,
) -> None:
    broker.gone = {f"gone{number}" for number in range(10)}
    innocent = asyncio.create_task(publish(broker, "slow"))
    await until_idle()
    poisoned = [asyncio.create_task(publish(broker, f"{kind}:1")) for kind in sorted(broker.gone)]
    while not all(task.done() for task in poisoned):
        await broker.wait(LOSS_SECONDS)
    assert not any(task.result() for task in poisoned)
    assert broker.losses >= 10
    await until_idle()
    broker.confirm()
    assert await innocent


async def test_addresses_of_a_kind_that_is_good_wait_for_no_other(broker: Broker) -> None:
    assert await publish(broker, "good:1")
    assert broker.publisher.trusts("good:2")
    slow = asyncio.create_task(publish(broker, "slow"))
    assert all(await asyncio.gather(*(publish(broker, f"good:{n}") for n in range(5))))
    await broker.lose()
    assert not broker.publisher.trusts("good:2")  # it may have been that node that is gone
    assert await publish(broker, "good:2")
    await until_idle()
    broker.confirm()
    assert await slow


def test_what_is_known_of_kinds_is_bounded() -> None:
    suspects = SuspectAddresses(kind_of)
    for number in range(3 * MOST_KNOWN):
        suspects.record_answer(f"a{number}:1")
        suspects.blame(f"b{number}:1", 0, shunned=100, held=1, sure=True)
        suspects.blame(f"c{number}:1", 0, shunned=100, held=1, sure=False)
    assert max(len(suspects._good), len(suspects._good_before)) <= MOST_KNOWN
    assert (len(suspects._shunned), len(suspects._doubts)) == (MOST_KNOWN, MOST_KNOWN)
    assert suspects.shuns(f"b{3 * MOST_KNOWN - 1}:1", 99)


def test_the_node_of_an_address_is_read_from_it() -> None:
    assert node_of(ADDRESS) == node_of(of_nobody(ADDRESS)) == "reply@104345332"
    assert of_nobody(ADDRESS) != ADDRESS
    assert [node_of(name) for name in ("theirs", "amq.rabbitmq.reply-to.x.y", "")] == [None] * 3
