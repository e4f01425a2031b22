"""What dispatchers tell each other on `maniple.outcomes`, so that limits hold for all of them.

Internal: unknown fields are ignored, and a report that is lost is made good by the next.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

REPORT_TYPE = "maniple.dispatcher.v1"
MOST = 2**53  # of anything that is counted: floats hold no greater number exactly
LONGEST = 1e16  # seconds, of what is granted in advance
Count = Annotated[int, Meta(ge=0, le=MOST)]
Balance = Annotated[int, Meta(ge=-MOST, le=MOST)]
"""A count, or what an older dispatcher that has told two owners of something takes back."""
Seconds = Annotated[float, Meta(ge=-LONGEST, le=LONGEST)]


class Ask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for `want` permits of the limit `key`, to the dispatcher that owns it.

    `rate` (tokens per second) and `capacity` are those of a bucket, of which `reserve` seconds may
    be taken in advance; `most` is the size of a bulkhead, `lane` where the first of the tasks goes,
    and `lanes` where the others do, in their order; neither means the probes of a breaker. `number`
    tells the asker which request an answer is to; `used` is what it let through without being
    answered, `freed` what it was granted and did not need. `left` are lanes that are not there, so
    that nothing of the asker's is in them; `had`, those where something may be that it was granted
    lately (None of one that is older, whose `lanes` are in no order and have these too).
    """

    key: str
    to: str
    number: Count
    want: Count
    rate: float = 0.0
    capacity: float = 0.0
    reserve: float = 0.0
    most: Count = 0
    lane: str = ""
    lanes: tuple[str, ...] = ()
    had: tuple[str, ...] | None = None
    used: Balance = 0
    freed: Balance = 0
    left: tuple[str, ...] = ()


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: the first `granted` may pass, the others may ask `again` (seconds).

    With tokens taken in advance the n-th of them (from 0) waits for `first + n * step` seconds.
    The others are refused, unless it is `undecided`: then nobody knows whether they might pass.
    """

    key: str
    to: str
    number: Count
    granted: Count
    again: Seconds = 0.0
    first: Seconds = 0.0
    step: Seconds = 0.0
    undecided: bool = False


class BreakerNews(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The breaker of a lane, as its owner has it; a higher epoch is newer.

    `remaining` is the seconds until an open one lets probes through.
    """

    lane: str
    state: str
    epoch: Count
    remaining: Seconds = 0.0


Turn = tuple[float, bool]
Level = tuple[float, float, float]
Room = tuple[Count, tuple[str, ...]]


class DispatcherReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Presence, requests, answers, and the state of what the sender owns.

    What it reads is `wire` (`maniple.messages.WIRE`).

    Only one that is `ready` owns anything: it has heard what the others know. `life` counts how
    often it has begun anew: it knows by that what it has said since. `levels` are the tokens in
    buckets now, each with its rate and its capacity; `rooms` the tasks that bulkheads of the
    sender's have granted and that have not left, each with the lanes that they went to; `unsure`
    says of how many of these nobody who lives has told.
    `going`, if it is told, are tasks of any bulkhead that the sender has for a while and that are
    on their way to a queue, all of them. `turns` are
    the lanes' queues that it turns over, or has, each with the time at which it began (seconds, of
    the cluster), and whether all was looked through.
    """

    TYPE: ClassVar[str] = REPORT_TYPE

    dispatcher: str
    wire: Count = 1
    ready: bool = False
    leaving: bool = False
    life: Count = 0
    asks: tuple[Ask, ...] = ()
    grants: tuple[Grant, ...] = ()
    levels: dict[str, Level] = {}
    rooms: dict[str, Room] = {}
    unsure: dict[str, Count] = {}
    breakers: tuple[BreakerNews, ...] = ()
    turns: dict[str, Turn] = {}
    going: dict[str, Count] | None = None
