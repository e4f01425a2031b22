import asyncio
import gc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple.amqp import batching
from maniple.amqp.batching import Bundler
from waiting import wait_until


class Sender:
    """Records bundles; with `hold`, a send ends only when the test says so."""

    def __init__(self, *, hold: bool = False) -> None:
        self.bundles: list[list[int]] = []
        self.open = 0
        self.most_open = 0
        self._gate = asyncio.Event()
        if not hold:
            self._gate.set()

    def release(self) -> None:
        self._gate.set()

    def __call__(self, bundle: list[int]) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(bundle))

    async def _send(self, bundle: list[int]) -> None:
        self.bundles.append(bundle)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await self._gate.wait()
        self.open -= 1


async def test_a_single_item_is_sent_at_once() -> None:
    sender = Sender()
    bundler = Bundler(sender)
    bundler.add(1, 10)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sender.bundles == [[1]]
    await bundler.drain()


async def test_what_one_turn_of_the_loop_adds_travels_together() -> None:
    sender = Sender()
    bundler = Bundler(sender)
    for item in range(5):
        bundler.add(item, 10)
    await bundler.drain()
    assert sender.bundles == [[0, 1, 2, 3, 4]]


async def test_under_load_bundles_fill_while_others_are_on_their_way() -> None:
    sender = Sender(hold=True)
    bundler = Bundler(sender, max_items=10, window=2)
    for item in range(35):
        bundler.add(item, 1)
    await wait_until(lambda: sender.open == 2)
    assert len(bundler) == 15
    sender.release()
    await bundler.drain()
    assert [len(bundle) for bundle in sender.bundles] == [10, 10, 10, 5]
    assert sender.most_open == 2


async def test_what_is_not_full_waits_until_hardly_anything_is_under_way() -> None:
    sender = Sender(hold=True)
    bundler = Bundler(sender, max_items=3)
    for item in range(batching.PARTIAL):
        bundler.add(item, 1)
        await asyncio.sleep(0.01)
    assert sender.bundles == [[item] for item in range(batching.PARTIAL)]
    bundler.add(7, 1)
    bundler.add(8, 1)
    await asyncio.sleep(0.01)
    assert sender.open == batching.PARTIAL
    bundler.add(9, 1)
    await wait_until(lambda: sender.bundles[-1] == [7, 8, 9])  # it is full
    bundler.add(10, 1)
    sender.release()
    await wait_until(lambda: sender.bundles[-1] == [10])
    await bundler.drain()


async def test_what_is_full_of_bytes_waits_for_nothing_either() -> None:
    sender = Sender(hold=True)
    bundler = Bundler(sender, max_bytes=100)
    for _ in range(batching.PARTIAL + 1):
        bundler.add(0, 100)
    await wait_until(lambda: sender.open == batching.PARTIAL + 1)
    sender.release()
    await bundler.drain()


@pytest.mark.parametrize(("items", "milliseconds"), [(2, 2), (3, 4), (100, 5)])
async def test_with_spacing_the_next_bundle_waits_the_longer_the_larger_the_last_was(
    items: int, milliseconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    ends: list[Callable[[], object]] = []

    def call_later(delay: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        waits.append(delay)
        ends.append(call)
        return loop.call_at(loop.time() + 3600, call)

    monkeypatch.setattr(loop, "call_later", call_later)
    sender = Sender()
    bundler = Bundler(sender, spacing=0.005)
    for item in range(items):
        bundler.add(item, 1)
    await bundler.drain()
    assert waits == [pytest.approx(milliseconds / 1000)]
    bundler.add(items, 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(sender.bundles) == 1
    ends[0]()
    await asyncio.sleep(0)
    assert sender.bundles[1:] == [[items]]
    await bundler.drain()


async def test_who_sends_one_after_the_other_is_not_held_up_by_spacing() -> None:
    sender = Sender()
    bundler = Bundler(sender, spacing=3600.0)
    for item in range(3):
        bundler.add(item, 1)
        await bundler.drain()
        await asyncio.sleep(0)
    bundler.add(3, 1)
    await wait_until(lambda: sender.bundles == [[0], [1], [2], [3]])
    await bundler.drain()


async def test_what_is_full_by_the_end_of_a_send_does_not_wait_for_company() -> None:
    sender = Sender(hold=True)
    bundler = Bundler(sender, max_items=2, window=1, patience=3600.0)
    for item in range(4):
        bundler.add(item, 1)
    await wait_until(lambda: sender.open == 1)
    sender.release()
    await wait_until(lambda: sender.bundles == [[0, 1], [2, 3]])
    await bundler.drain()


async def test_bytes_limit_a_bundle_but_a_large_item_goes_alone() -> None:
    sender = Sender()
    bundler = Bundler(sender, max_bytes=100)
    for item, size in enumerate((60, 60, 500, 30, 30)):
        bundler.add(item, size)
    await bundler.drain()
    assert sender.bundles == [[0], [1], [2], [3, 4]]


async def test_what_counts_as_several_is_not_divided_and_fills_no_bundle_beyond_its_limit() -> None:
    sender = Sender()
    bundler = Bundler(sender, max_items=4)
    for item, count in enumerate((3, 3, 1, 3, 8, 1)):
        bundler.add(item, 1, count)
    await bundler.drain()
    assert sender.bundles == [[0], [1, 2], [3], [4], [5]]


async def test_draining_an_idle_bundler_ends() -> None:
    bundler = Bundler(Sender())
    async with asyncio.timeout(1):
        await bundler.drain()
    assert bundler.idle


@pytest.mark.parametrize("window", [1, 3])
async def test_items_added_while_sending_are_not_forgotten(window: int) -> None:
    sender = Sender()
    bundler = Bundler(sender, max_items=4, window=window)
    for item in range(50):
        bundler.add(item, 1)
        if item % 7 == 0:
            await asyncio.sleep(0)
    await wait_until(lambda: sum(map(len, sender.bundles)) == 50)
    await wait_until(lambda: bundler.idle)
    await bundler.drain()
    assert [item for bundle in sender.bundles for item in bundle] == list(range(50))


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 8), st.integers(1, 100))
def test_every_item_is_sent_once_within_the_limits(
    sizes: list[int], max_items: int, max_bytes: int
) -> None:
    async def run() -> list[list[int]]:
        sender = Sender()
        bundler = Bundler(sender, max_items=max_items, max_bytes=max_bytes)
        for item, size in enumerate(sizes):
            bundler.add(item, size)
        await bundler.drain()
        return sender.bundles

    bundles = asyncio.run(run())
    assert sorted(item for bundle in bundles for item in bundle) == list(range(len(sizes)))
    for bundle in bundles:
        assert len(bundle) <= max_items
        assert len(bundle) == 1 or sum(sizes[item] for item in bundle) <= max_bytes


async def test_after_a_send_that_raised_what_waits_is_sent() -> None:
    sent: list[list[int]] = []

    async def send(bundle: list[int]) -> None:
        sent.append(bundle)
        await asyncio.sleep(0)
        if bundle == [0]:
            raise RuntimeError("it must not, and it did")

    gc.collect()  # what other tests have left has its say before
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    bundler = Bundler[int](lambda items: asyncio.ensure_future(send(items)), max_items=1, window=1)
    for item in range(3):
        bundler.add(item, 1)
    await wait_until(lambda: bundler.idle)
    gc.collect()  # what nobody has asked for is told when it goes
    asyncio.get_running_loop().set_exception_handler(None)
    assert sent == [[0], [1], [2]]
    assert len(complaints) == 1


async def test_only_sends_that_nobody_waits_for_are_cancelled() -> None:
    sender = Sender(hold=True)
    bundler = Bundler(sender, max_items=2, window=3)
    for item in range(8):
        bundler.add(item, 1)
    await wait_until(lambda: sender.open == 3)
    bundler.cancel(lambda item: item < 3)
    await wait_until(lambda: len(sender.bundles) == 4)  # in the room of the first
    sender.release()
    await bundler.drain()
    assert sender.bundles == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sender.open == 1  # the first never ended
