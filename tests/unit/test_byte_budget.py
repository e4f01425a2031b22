"""How many bytes a process holds, and what that leaves of a prefetch."""

from typing import Any

import pytest

from channels import until_idle
from maniple.amqp import ByteBudget, Consumer, Delivery, consumer
from maniple.amqp.byte_budget import (
    ASSUMED,
    IDLE,
    LONG_TASKS,
    MOST_BESIDES,
    MOST_TASKS,
    SHORT_TASKS,
    TASK_BYTES,
    Length,
    length_of,
    weight_of,
)
from sending_queue import SendingQueue

MIB = 1024**2
SMALL, LARGE = b"{" + b"x" * 99, b"{" + b"x" * (MIB - 1)


@pytest.fixture(autouse=True)
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "QUIET", 0.0)


class Taking:
    """A consumer, its queue, and what it has handed on and is not settled."""

    def __init__(
        self, queue: SendingQueue, budget: ByteBudget | None, *, prefetch: int = 256, **more: Any
    ) -> None:
        self.queue, self.budget = queue, budget
        self.held: list[Delivery] = []
        self.done = 0
        self.on = Consumer("q", self.held.append, prefetch=prefetch, budget=budget, **more)

    async def open(self) -> "Taking":
        connection: Any = self.queue
        await self.on.open(connection)
        await until_idle()
        return self

    async def settle(self, count: int) -> None:
        some, self.held[:count] = self.held[:count], []
        for delivery in some:
            delivery.ack()
        self.done += len(some)
        await until_idle()

    async def look(self, times: int = 1) -> None:
        assert self.budget is not None
        for _ in range(times):
            self.budget.rebalance()
        await until_idle()

    @property
    def consumes(self) -> bool:
        return self.on._in_force is not None


async def taking(*bodies: bytes, limit: int = 8 * MIB, **more: Any) -> Taking:
    budget = ByteBudget(limit, staged=more.pop("staged", False))
    return await Taking(SendingQueue(*bodies), budget, **more).open()


async def test_what_is_held_is_counted_at_delivery_and_given_back_at_settlement() -> None:
    on = await taking(SMALL, SMALL, SMALL, LARGE)
    assert on.budget is not None
    assert on.budget.held == 300 + MIB
    await on.settle(1)
    assert on.budget.held == 200 + MIB
    on.held.pop(0).reject()
    assert on.budget.held == 100 + MIB
    on.on.lost()
    assert on.budget.held == 0
    on.held[0].ack()  # of a connection that is gone
    await until_idle()
    assert on.budget.held == 0


async def test_a_consumer_asks_for_no_more_until_half_of_the_budget_is_settled() -> None:
    on = await taking(*[LARGE] * 40, limit=8 * MIB)
    assert (len(on.held), on.consumes, on.on.hungry) == (32, False, False)  # all was on its way
    assert on.on.consumes  # it is its own doing, not the queue's
    await on.settle(27)
    await on.look()
    assert (on.consumes, len(on.queue.ready)) == (False, 8)
    await on.settle(1)
    assert (on.consumes, len(on.held)) == (False, 4)  # not at once: it would do so all the time
    await on.look()
    assert (on.consumes, len(on.held)) == (True, 8)  # the budget's worth: their size is known now


async def test_nothing_is_lost_and_nothing_comes_twice_however_often_it_is_held_back() -> None:
    on = await taking(*[LARGE] * 100, limit=4 * MIB)
    for _ in range(200):
        await on.settle(3)
        await on.look()
    assert on.budget is not None
    assert (on.done, len(on.queue.ready), len(on.queue.unacked)) == (100, 0, 0)
    assert (on.budget.held, on.budget.in_hand) == (0, 0)


@pytest.mark.parametrize("staged", [True, False])
async def test_a_message_larger_than_the_whole_budget_passes_alone(*, staged: bool) -> None:
    on = await taking(*[LARGE] * 5, limit=MIB // 2, staged=staged)
    most = []
    for _ in range(20):
        most.append(len(on.held))
        await on.settle(1)
        await on.look()
    assert on.done == 5
    assert max(most[2:] if not staged else most) == 1


async def test_large_messages_of_one_queue_do_not_stop_the_others() -> None:
    budget = ByteBudget(8 * MIB)
    large = await Taking(SendingQueue(*[LARGE] * 40), budget).open()
    small = await Taking(SendingQueue(*[SMALL] * 40), budget, prefetch=5).open()
    for _ in range(4):
        await large.look()
        await small.settle(10)
    assert (large.consumes, small.consumes, small.done) == (False, True, 20)
    assert budget.held_back == ("q",)
    for _ in range(4):
        await small.settle(5)
    await small.queue.publish(*[LARGE] * 5)  # more than its floor, while the others hold it all
    await small.look()
    assert not small.consumes
    await large.settle(32)
    await large.look()
    assert len(large.held) == 4  # half of the budget, which the other shares now
    for _ in range(8):
        await small.settle(5)
        await large.settle(4)
        await large.look()
    assert (large.done, small.done, budget.held) == (40, 45, 0)


async def test_a_pause_and_the_budget_do_not_undo_each_other() -> None:
    on = await taking(*[LARGE] * 60, limit=8 * MIB)
    await on.on.resume()  # a fence that opens: the budget is still used up
    assert not on.consumes
    on.on.want(prefetch=20)
    await until_idle()
    assert not on.consumes
    await on.on.pause()
    await on.settle(32)
    await on.look()
    assert (on.budget.held_back if on.budget else None) == ()
    assert (on.consumes, on.held) == (False, [])  # its owner has not let it take
    await on.on.resume()
    await until_idle()
    assert (on.consumes, len(on.held)) == (True, 8)


async def test_a_queue_that_is_quiet_again_gets_what_fits_of_messages_that_are_not_small() -> None:
    on = await taking(*[SMALL] * 1000, limit=32 * MIB)
    assert on.queue.prefetches == [32 * MIB // ASSUMED]
    await on.look()
    assert on.queue.prefetches == [128, 256]  # it was used up, by small ones
    for _ in range(10):
        await on.settle(256)
        await on.look()
    assert (on.done, on.queue.prefetches) == (1000, [128, 256])
    await on.look(IDLE - 10)
    assert on.queue.prefetches == [128, 256]
    await on.look(10)
    assert on.queue.prefetches == [128, 256, 128]


async def test_a_prefetch_that_is_not_used_up_is_left_as_it_is() -> None:
    on = await taking(*[SMALL] * 100, limit=32 * MIB)
    await on.look(IDLE - 1)
    await on.settle(100)
    await on.look(IDLE - 1)
    assert on.queue.prefetches == [128]


async def test_a_prefetch_falls_to_what_the_budget_holds_of_what_comes() -> None:
    on = await taking(*[LARGE] * 8, limit=16 * MIB)
    await on.look()
    assert on.queue.prefetches == [64, 16]
    await on.look(5)
    await on.queue.publish(*[LARGE] * 100)
    assert (len(on.held), on.consumes) == (16, True)


async def test_what_an_owner_asks_for_later_is_kept_to_the_budget_as_well() -> None:
    on = await taking(*[LARGE] * 2, limit=16 * MIB, prefetch=2)
    await on.look()
    await on.queue.publish(*[LARGE] * 300)
    on.on.want(prefetch=256)
    await until_idle()
    assert (on.queue.prefetches, len(on.held)) == ([2, 16], 16)


async def test_queues_with_large_messages_share_instead_of_holding_each_other_back() -> None:
    budget = ByteBudget(16 * MIB)
    both = [await Taking(SendingQueue(*[LARGE] * 500), budget, prefetch=16).open() for _ in "ab"]
    for _ in range(4):
        for one in both:
            await one.settle(16)
        budget.rebalance()
        await until_idle()
    assert [one.queue.prefetch for one in both] == [8, 8]
    assert budget.held == 16 * MIB


async def test_what_is_only_counted_is_never_held_back_and_leaves_nothing_behind() -> None:
    budget = ByteBudget(4 * MIB)
    floor = budget.floor
    on = await Taking(SendingQueue(*[LARGE] * 16), budget, prefetch=16, steady=True).open()
    await on.look()
    assert (on.consumes, len(on.held), on.queue.prefetches) == (True, 16, [16])
    on.on.retire()
    on.on.retire()
    assert (budget.held, budget.floor) == (0, floor)


# --- staged: what exceeds the budget waits unopened ----------------------------------------


async def test_what_comes_beyond_the_budget_waits_unopened_and_in_order() -> None:
    bodies = [b"{%03d" % n + LARGE[4:] for n in range(20)]
    on = await taking(*bodies, limit=16 * MIB, staged=True, prefetch=16)
    assert on.budget is not None
    assert (on.budget.held, len(on.held)) == (16 * MIB, 3)  # each counts for more than its bytes
    assert (on.on.unsettled, on.on.waits_unopened) == (16, True)
    seen = []
    for _ in range(20):
        seen += [delivery.body[1:4] for delivery in on.held[:1]]
        await on.settle(1)
        await on.look()
        assert on.budget.in_hand <= on.budget.limit
    assert seen == [b"%03d" % n for n in range(20)]
    assert not on.on.waits_unopened


async def test_room_that_one_queue_leaves_is_taken_by_what_waits_in_another() -> None:
    budget = ByteBudget(16 * MIB, staged=True)
    one, two, other = [
        await Taking(SendingQueue(*[LARGE] * 3), budget, prefetch=3).open() for _ in range(3)
    ]
    # Of half the budget; the first passes in any case.
    assert (len(one.held), len(two.held), len(other.held)) == (3, 3, 1)
    await one.settle(3)
    assert len(other.held) == 3


async def test_each_queue_may_have_a_long_message_and_a_short_one_whatever_others_have() -> None:
    budget = ByteBudget(2 * MIB, staged=True)
    short = b"{" + b"x" * 10_000
    for _ in range(4):
        on = await Taking(SendingQueue(LARGE, LARGE, short, short), budget, prefetch=4).open()
        assert [len(delivery.body) for delivery in on.held][:2] == [MIB, len(short)]


# --- long: what is short goes first, and is seen behind any number of arrays ------------------

ARRAY = b"[" + b'{"x":1},' * (MOST_TASKS - 1) + b'{"x":1}]'
ONE = b'{"payload":1}'


def test_an_array_is_as_long_as_its_tasks_are_many() -> None:
    tasks = (1, SHORT_TASKS - 1, SHORT_TASKS + 1, 128, LONG_TASKS + 1, MOST_TASKS)
    arrays = (b"[" + b",".join([b'{"payload":1}'] * number) + b"]" for number in tasks)
    short, long, longest = Length
    assert [length_of(weight_of(body)) for body in arrays] == [
        short, short, long, long, longest, longest,
    ]  # fmt: skip


async def test_long_ones_go_before_the_longest() -> None:
    on = await taking(*[ARRAY] * 20, limit=32 * MIB, staged=True, prefetch=64)
    hundred = b"[" + b",".join([ONE] * 100) + b"]"
    await on.queue.publish(*[hundred] * 5)
    await until_idle()
    assert [len(one.body) for one in on.held[2:]] == [len(hundred)] * 5


async def arrays(number: int, prefetch: int = 64, limit: int = 32 * MIB) -> Taking:
    return await taking(*[ARRAY] * number, limit=limit, staged=True, prefetch=prefetch)


def shorts(on: Taking) -> int:
    return sum(delivery.body == ONE for delivery in on.held)


async def test_short_messages_go_before_long_ones_of_which_few_are_worked_on() -> None:
    on = await arrays(20)
    assert len(on.held) == 2  # as a quarter of the budget holds
    await on.queue.publish(*[ONE] * 10)
    await until_idle()
    assert (len(on.held), shorts(on)) == (12, 10)
    await on.settle(1)
    assert (len(on.held), shorts(on)) == (12, 10)  # and the next long one


async def test_short_messages_are_seen_behind_more_arrays_than_the_prefetch() -> None:
    on = await arrays(300)
    for _ in range(5):
        await on.queue.publish(ONE)
        await until_idle()
    assert shorts(on) == 5
    assert on.on.unsettled == 305


async def test_no_more_messages_are_asked_for_than_the_budget_holds_of_such() -> None:
    on = await arrays(3000, limit=4 * MIB)
    assert on.budget is not None
    assert on.budget.held <= on.budget.limit + 64 * len(ARRAY)
    assert on.on.unsettled < 1000


async def test_however_many_long_messages_wait_the_prefetch_is_one_that_the_protocol_has() -> None:
    tiny = b"[" + b",".join([b"{}"] * 65) + b"]"
    on = await taking(*[tiny] * 20_000, limit=64 * MIB, staged=True, prefetch=256)
    for _ in range(60):
        await until_idle()
    assert 4_000 < on.queue.prefetches[-1] <= 256 + MOST_BESIDES
    assert on.on.unsettled == on.queue.prefetches[-1]
    assert len(on.queue.prefetches) < 30


async def test_long_messages_of_several_queues_leave_half_of_the_budget_to_short_ones() -> None:
    budget = ByteBudget(32 * MIB, staged=True)
    for _ in range(3):
        on = await Taking(SendingQueue(*[ARRAY] * 4), budget, prefetch=200).open()
    assert budget.in_hand <= (16 + 5) * MIB  # the first of each queue passes in any case
    await on.queue.publish(*[ONE] * 100)
    await until_idle()
    assert shorts(on) == 100


async def test_the_prefetch_is_as_before_when_no_long_message_waits() -> None:
    on = await arrays(300)
    assert on.queue.prefetches[-1] > 300
    while on.on.unsettled:
        await on.settle(len(on.held))
        await on.look()
    await on.look(2)
    assert on.queue.prefetches[-1] == 64
    assert on.done == 300


async def test_short_messages_alone_ask_for_no_more_than_the_prefetch() -> None:
    on = await taking(*[ONE] * 300, limit=16 * MIB, staged=True, prefetch=64)
    await on.look(3)
    assert set(on.queue.prefetches) == {64}
    assert len(on.held) == 64


async def test_what_cannot_be_handled_makes_room_for_what_waits() -> None:
    budget = ByteBudget(2 * MIB, staged=True)
    queue = SendingQueue(*[LARGE] * 6)
    seen: list[bytes] = []

    def fail(delivery: Delivery) -> None:
        seen.append(delivery.body[:1])
        raise ValueError("whatever")

    on = Consumer("q", fail, prefetch=6, budget=budget)
    connection: Any = queue
    await on.open(connection)
    await until_idle()
    for _ in range(6):
        budget.rebalance()
        await until_idle()
    assert (len(seen), on.unsettled, budget.in_hand, budget.held) == (6, 0, 0, 0)


async def test_what_waits_unopened_goes_with_its_connection() -> None:
    on = await taking(*[LARGE] * 8, limit=2 * MIB, staged=True, prefetch=8)
    assert on.on.waits_unopened
    on.on.lost()
    assert on.budget is not None
    assert (on.on.waits_unopened, on.budget.held, on.budget.in_hand) == (False, 0, 0)
    before = len(on.held)
    await on.look(3)
    assert len(on.held) == before


def test_an_array_of_small_tasks_counts_for_what_is_made_of_it() -> None:
    assert weight_of(b'{"payload": [{}, {}, {}]}') == 25 + TASK_BYTES
    assert weight_of(b'[{"a":1},{"a":2}]') == 17 + 2 * TASK_BYTES
    assert weight_of(b" []") == 3 + TASK_BYTES
    hostile = b"[" + b"{" * 100_000
    assert weight_of(hostile) == len(hostile) + MOST_TASKS * TASK_BYTES


async def test_what_turns_out_to_be_light_makes_room_for_what_waits() -> None:
    array = b"[" + b"{" * MOST_TASKS
    on = await taking(*[array] * 3, limit=MOST_TASKS * TASK_BYTES + MIB, staged=True)
    assert (len(on.held), on.on.waits_unopened) == (1, True)
    for opened in range(2, 4):
        on.held[-1].lighten(TASK_BYTES)
        await until_idle()
        assert len(on.held) == opened
    assert on.budget is not None
    on.held[0].lighten(MOST_TASKS * TASK_BYTES)  # it cannot become more
    await on.settle(2)
    on.held[0].ack()
    on.held[0].lighten(1)
    await until_idle()
    assert (on.budget.in_hand, on.budget.held) == (0, 0)
