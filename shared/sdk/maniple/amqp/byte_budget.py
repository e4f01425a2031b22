"""How many bytes of messages a process holds, whatever RabbitMQ's prefetch counts.

A prefetch bounds messages, and one of them may have a hundred bytes or a megabyte. So the bodies of
all deliveries that are not settled are counted, for all consumers of a process together:

- A consumer that finds more held than the budget asks for no more until half of it is settled.
- What is on its way by then still comes: its whole prefetch. So that is kept to what the budget
  holds of messages as large as the largest of late, and of a queue that has brought none for a
  while to what it holds of `ASSUMED` bytes each.
- If the budget is `staged`, what comes all the same waits unopened, as it came, until there is
  room: what is worked on has copies, and an array of small tasks becomes many times as large.
- Of those, short ones go before long ones, of which few are worked on at a time: so nobody's single
  task waits for somebody's arrays. Beside as many long ones as wait, a consumer may have its whole
  prefetch of others: else a queue full of arrays would hide what comes behind them.

A consumer may always have one message of each `Length`, and its `floor`: neither does a message
that is larger than the budget wait for ever, nor does one queue with large messages stop the
others. Pure: it reads no clock, and is looked at from outside about once a second.
"""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from maniple.amqp.batching import MAX_ITEMS
from maniple.codec import plain_size

if TYPE_CHECKING:
    from maniple.amqp.delivery import Delivery

ASSUMED = 256 * 1024
IDLE = 30  # looks
TASK_BYTES = 4 * 1024
"""What a dispatcher makes of a task, besides copies of its bytes."""
MOST_TASKS = 1000  # of one submission
SHORT_TASKS = 16  # in weight
LONG_TASKS = 160  # as clients send that bundle what is submitted at a time: 128, and their bytes
LONG_PART = 4  # the part of the limit that a share may have of each kind of long ones: one of four
ALL_LONG_PART = 2  # and all shares of both kinds together
MOST_BESIDES = 4096  # messages; the protocol has 65,535, and each takes more than its bytes
WORTH = 2
"""A prefetch is changed by consuming anew; what is on its way meanwhile comes twice. So seldom."""


def weight_of(body: bytes) -> int:
    """Return how many bytes a message takes about that is worked on, by what can be seen cheaply.

    Whether what is in an array are tasks is not looked into.
    """
    if body[:1] == b"{":
        return len(body) + TASK_BYTES
    if (size := plain_size(body)) != len(body):
        return size + TASK_BYTES * MAX_ITEMS
    return len(body) + TASK_BYTES * min(MOST_TASKS, max(1, body.count(b"{")))


class Length(IntEnum):
    """How much work a message is; the shorter goes first."""

    SHORT = 0
    LONG = 1
    LONGEST = 2


def length_of(weight: int) -> Length:
    """Return how long a message of a weight is."""
    if weight <= SHORT_TASKS * TASK_BYTES:
        return Length.SHORT
    return Length.LONG if weight <= LONG_TASKS * TASK_BYTES else Length.LONGEST


class ByteBudget:
    """The budget of a process: at most about `limit` bytes are held by all its shares together."""

    def __init__(
        self,
        limit: int,
        *,
        staged: bool = False,
        on_look: Callable[["ByteBudget"], None] | None = None,
    ) -> None:
        """Allow `limit` bytes; `on_look` is called at the end of each look."""
        self.limit = limit
        self.staged = staged
        self.held = 0
        """Bytes of deliveries that are not settled."""
        self.in_hand = 0
        """Weight of those of them that are worked on, if it is `staged`."""
        self.floor = limit // 2
        """Bytes that each share may hold, whatever the others do."""
        self._on_look = on_look
        self._shares: list[ByteShare] = []
        self._waiting: dict[ByteShare, None] = {}

    @property
    def held_back(self) -> tuple[str, ...]:
        """The queues from which nothing more is taken, because too much is held."""
        return tuple(share.queue for share in self._shares if share.held_back)

    def join(self, share: "ByteShare") -> None:
        """Count a share, from now on."""
        self._shares.append(share)
        self._divide()

    def leave(self, share: "ByteShare") -> None:
        """Forget a share and what it holds; idempotent."""
        share.clear()
        if share in self._shares:
            self._shares.remove(share)
            self._divide()

    def _divide(self) -> None:
        self.floor = self.limit // (2 * max(1, len(self._shares)))

    def fits(self, share: "ByteShare", weight: int) -> bool:
        """Tell whether a share may have so much more in hand."""
        length = length_of(weight)
        if share.in_hand_of[length] == 0:
            return True
        if length and (
            share.in_hand_of[length] + weight > self.limit // LONG_PART
            or self._long_in_hand + weight > self.limit // ALL_LONG_PART
        ):
            return False
        return self.in_hand + weight <= self.limit or share.in_hand + weight <= self.floor

    @property
    def _long_in_hand(self) -> int:
        return sum(sum(share.in_hand_of[Length.LONG :]) for share in self._shares)

    def wait(self, share: "ByteShare") -> None:
        """Remember a share that has something unopened."""
        self._waiting[share] = None

    def hand_on(self) -> None:
        """Have opened what has waited, as far as there is room now."""
        for share in tuple(self._waiting):
            if share.hand_on_waiting():
                self._waiting.pop(share, None)

    def rebalance(self) -> None:
        """Release who may take again, and fit prefetches to what has come; about once a second."""
        greedy = sum(share.greedy for share in self._shares)
        fair = self.limit // max(1, greedy)
        for share in self._shares:
            share.update_hold(fair)
        self.hand_on()
        if self._on_look is not None:
            self._on_look(self)


class ByteShare:
    """What one consumer holds.

    `changed` is called when it is to be held back or no longer, or to have another prefetch; None
    is for one to which that may not happen: it is only counted.
    """

    def __init__(
        self,
        budget: ByteBudget,
        queue: str,
        hand: Callable[["Delivery"], None],
        *,
        prefetch: Callable[[], int],
        changed: Callable[[], None] | None,
    ) -> None:
        """Give what has waited to `hand`; `prefetch` is the consumer's, were there no budget."""
        self.queue = queue
        self.held = 0
        self.in_hand = 0
        self.in_hand_of = [0 for _ in Length]
        """That by `Length`."""
        self.held_back = False
        self.most = prefetch() if changed is None else max(1, budget.limit // ASSUMED)
        """Messages that the consumer may have at a time, by their bytes."""
        self.besides = 0
        """Messages that it may have besides its prefetch: about as many long ones wait."""
        self._budget = budget
        self._hand = hand
        self._prefetch = prefetch
        self._changed = changed
        self._unopened: tuple[deque[Delivery], ...] = tuple(deque() for _ in Length)
        self._largest = 0
        self._expected = ASSUMED
        self._quiet = 0
        self._used_up = False
        budget.join(self)

    def count_delivery(self, delivery: "Delivery", unsettled: int) -> bool:
        """Count a delivery, with which so many are `unsettled`; tell whether it is to be opened.

        If not, it waits, and is handed on later.
        """
        budget, size = self._budget, plain_size(delivery.body)
        self.held += size
        budget.held += size
        self._largest = max(self._largest, size)
        if unsettled >= self.prefetch:
            self._used_up = True
        if budget.held > budget.limit and not self.held_back:
            self._hold_back_if_due()
        if not budget.staged:
            return True
        weight = weight_of(delivery.body)
        unopened = self._unopened[length_of(weight)]
        opens = not unopened and budget.fits(self, weight)
        if opens:
            self._weigh(delivery, weight)
        else:
            unopened.append(delivery)
            budget.wait(self)
        if unsettled >= self.prefetch:
            self._widen_if_due(unsettled)
        return opens

    def count_settled(self, delivery: "Delivery") -> None:
        """Give back what a delivery held."""
        size = plain_size(delivery.body)
        self.held -= size
        self._budget.held -= size
        self._weigh(delivery, 0)

    def lighten(self, delivery: "Delivery", weight: int) -> None:
        """Count less for a delivery that is worked on."""
        self._weigh(delivery, weight)

    def _weigh(self, delivery: "Delivery", weight: int) -> None:
        before, delivery.weight = delivery.weight, weight
        self.in_hand += weight - before
        self._budget.in_hand += weight - before
        self.in_hand_of[length_of(before)] -= before
        self.in_hand_of[length_of(weight)] += weight

    def clear(self) -> None:
        """Give back everything: the deliveries are lost."""
        self._budget.held -= self.held
        self._budget.in_hand -= self.in_hand
        self.held = self.in_hand = self.besides = 0
        self.in_hand_of = [0 for _ in Length]
        self.held_back = False
        for unopened in self._unopened:
            unopened.clear()

    @property
    def prefetch(self) -> int:
        """Messages that the consumer may have at a time."""
        return min(self.most, self._prefetch() + self.besides)

    @property
    def waits(self) -> bool:
        """Whether something waits unopened."""
        return any(self._unopened)

    @property
    def _long_waiting(self) -> int:
        return sum(map(len, self._unopened[Length.LONG :]))

    def hand_on(self) -> None:
        """Have opened what has waited, of any share, as far as there is room now."""
        self._budget.hand_on()

    def hand_on_waiting(self) -> bool:
        """Hand on what has waited, as far as there is room; tell whether nothing waits any more."""
        for unopened in self._unopened:
            while unopened:
                weight = weight_of(unopened[0].body)
                if not self._budget.fits(self, weight):
                    break
                delivery = unopened.popleft()
                self._weigh(delivery, weight)
                self._hand(delivery)
        return not self.waits

    @property
    def greedy(self) -> bool:
        """Whether it holds much, or may as well with what has come since the last look."""
        coming = self._largest * min(self.most, self._prefetch())
        return max(self.held, coming) > self._budget.floor

    def update_hold(self, fair: int) -> None:
        """See whether the consumer is to be held back, and what its prefetch may be.

        `fair` is what each of those may hold that are greedy.
        """
        changed, budget = self._changed, self._budget
        if changed is None:
            return
        if not self.held_back:
            self._hold_back_if_due()
        elif budget.held <= budget.limit // 2 or self.held <= budget.floor // 2:
            self.held_back = False
            changed()
        self._expect()
        narrower = WORTH * self._long_waiting < self.besides
        if narrower:
            self.besides = self._long_waiting
        if self._refits(max(1, fair // self._expected)) or narrower:
            changed()

    def _widen_if_due(self, unsettled: int) -> None:
        """Widen a prefetch for what may be short, if all of it is used and most is long and waits.

        What comes next is taken to be as large as these are; its bytes are counted as ever.
        """
        budget, waiting = self._budget, self._long_waiting
        now = self.prefetch
        if self._changed is None or budget.held > budget.limit or 2 * waiting < now:
            return
        size = max(1, self._largest, self.held // unsettled)
        besides = min(max(self.besides, waiting), MOST_BESIDES)
        most = budget.limit // size
        if min(most, self._prefetch() + besides) >= now + self._prefetch() // WORTH**2:
            self.besides, self.most, self._expected = besides, most, size
            self._used_up = False
            self._changed()

    def _hold_back_if_due(self) -> None:
        changed, budget = self._changed, self._budget
        if changed and budget.held > budget.limit and self.held > budget.floor:
            self.held_back = True
            changed()

    def _expect(self) -> None:
        """Judge how large what comes next may be, by what came since the last look."""
        seen, self._largest = self._largest, 0
        if seen:
            self._quiet = 0
            self._expected = max(seen, self._expected // 2)
        elif not self.held:
            self._quiet += 1
            if self._quiet >= IDLE:
                self._expected = ASSUMED

    def _refits(self, most: int) -> bool:
        """Set how many messages the consumer may have; tell whether its prefetch changes."""
        prefetch = self._prefetch() + self.besides
        now, wanted = self.prefetch, min(most, prefetch)
        used_up, self._used_up = self._used_up, False
        # More only while all is used up: then nothing is on its way, that would come twice.
        rises = used_up and wanted > now and (wanted == prefetch or wanted >= WORTH * now)
        if wanted == now or rises or wanted * WORTH <= now:
            self.most = most
        return wanted != now and self.most == most
