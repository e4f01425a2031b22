"""The parts of a cluster's protocol timings: how long each time is, and who relies on it. Pure.

All are seconds, unless a field says otherwise: read a field's text as "seconds …". The first
sentence of a class says whose times they are. `maniple.timings` puts the parts together.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self


def _outside(default: float, least: float) -> Any:
    """Return a field that no scale makes shorter than systems outside of ours allow."""
    return field(default=default, metadata={"least": least})


def _share(default: float) -> Any:
    """Return a field that is a ratio, no time, and is not scaled."""
    return field(default=default, metadata={"share": True})


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the timings."""

    def scaled(self, factor: float) -> Self:
        """Return this part with all times multiplied, see `Timings.scaled`."""
        changes: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if "share" not in one.metadata:
                longer = max(one.metadata.get("least", 0.0), value * factor)
                # Rounded up: what a client holds must not be given to others the sooner.
                changes[one.name] = math.ceil(longer - 1e-9) if one.type is int else longer
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeats(Part):
    """Of an agent, over RabbitMQ; registries, Consul and the agent itself go by them."""

    period: float = 3.0
    """between two heartbeats of an agent; registries call one missed after `Bounds.unreachable`"""
    jitter: float = _share(0.1)
    """share of `period` by which it varies"""
    confirm: float = 2.5
    """until a heartbeat that the broker has not confirmed is warned of, and not waited for"""

    @property
    def longest(self) -> float:
        """Seconds from one heartbeat to the next at most."""
        return self.period * (1 + self.jitter)


@dataclass(frozen=True, slots=True)
class Bounds(Part):
    """Of a registry's view of an agent: of silence, and of work that waits untaken."""

    unreachable: float = 4.5
    """of silence until an agent is suspected"""
    failed: float = 9.0
    """of silence until it is failed: its tasks are given to others, so it must have stopped them"""
    forgotten: float = 600.0
    """for which a failed or left agent is known"""
    starving: float = 2.0
    """from the first look at work that it leaves untaken until it is suspected"""
    reconnect: float = 5.0
    """until it is told to build its connections anew"""
    hopeless: float = 10.0
    """until it is failed"""
    settling: float = 5.0
    """an incarnation known for less is not looked at: it may still be opening its consumers"""
    unwell: float = _outside(10.0, 2.0)
    """nor is its HTTP check held against one that is known for less: it failed for another"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fencing(Part):
    """Of an agent whose heartbeats are not confirmed, from the sending of the last that was."""

    fenced: float = 6.0
    """until it takes and starts nothing new; registries do not count on it before `failed`"""
    exclusive: float = 8.0
    """until it stops what must not run twice"""
    look: float = 0.25
    """between two looks at the time, so that all of this may come so much later"""
    first_rebuild: float = 1.0
    """after it was fenced until it builds a connection anew: a heartbeat goes first"""
    rebuild: float = 5.0
    """between two rebuilds of one that seems to stand"""

    @property
    def stopped(self) -> float:
        """Seconds after which nothing exclusive runs any more."""
        return self.exclusive + self.look


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching(Part):
    """Of a registry, which judges agents by what it hears."""

    scan: float = 0.1
    """between two looks at who is silent"""
    look: float = 1.0
    """between two looks at lanes, and at Consul's checks"""
    echo: float = 3.0
    """for which it waits for its own echo, while nothing else is heard, until it takes itself for
    deaf; about a heartbeat's period, so that even of few agents something is heard meanwhile"""
    proof: float = 1.0
    """for which an echo that came proves that it hears"""
    longest_step: float = 1.0
    """of its clock; more means that it stood still itself, and is not held against agents"""
    settling: float = 5.0
    """after its link was lost in which agents, who may have lost theirs, are not looked at"""
    seeding: float = 2.0
    """for which one that starts waits to hear all agents that stand in Consul"""
    answering: float = 0.2
    """of these, for those that Consul has lost"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby(Part):
    """Of registries among themselves: when another does what the leader should have done."""

    grace: float = 0.5
    """for which a standby waits whether what it decided is seen done"""
    reconnect_grace: float = 5.0
    """the same for telling an agent to reconnect, which shows only when it takes work again"""
    remembered: float = 10.0
    """for which an event seen is known as done; replicas differ by less"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks(Part):
    """Of the time of day that deadlines go by: registries tell it, all others follow."""

    tell: float = 5.0
    """between two times that a registry tells it; longer where it has over 10,000 agents"""
    kept: float = 60.0
    """for which what was told counts"""
    agree: float = _outside(2.0, 2.0)
    """by which clocks may differ; one is said to be wrong that differs by more"""
    behind: float = _outside(0.1, 0.1)
    """by which a machine's clock may be behind what was told before that dates what happens there;
    ahead it may be by `agree`: what is told is late itself, by as long as the telling took"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog(Part):
    """Of a process's entry in Consul, which registries and people go by."""

    ttl: float = _outside(6.0, 1.0)
    """without a sign of life until the TTL check is critical"""
    refresh: float = 2.0
    """between two refreshes by a process that has no heartbeats"""
    http_interval: float = _outside(5.0, 1.0)
    """between two looks of Consul at `/health`; Consul takes no less than a second"""
    http_timeout: float = _outside(3.0, 1.0)
    """for which Consul waits for the page"""
    gone: float = _outside(10.0, 2.0)
    """for which all checks of an entry have been critical when a registry takes it out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading(Part):
    """Of the lock in Consul that decides who of several replicas leads."""

    look: float = 1.0
    """between two looks at the lock"""
    lease: float = 5.0
    """for which a look that found us leading holds"""
    lock_delay: float = 1.0
    """for which Consul gives the lock to nobody after its holder's session ended"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amqp(Part):
    """Of a connection to RabbitMQ."""

    heartbeat: int = _outside(5, 1)
    """whole seconds, as the protocol has it; the broker gives others what a client holds after two
    to three of them without a word"""
    silence: float = _share(1.4)
    """of these without a word of the broker until the connection is taken for dead"""
    tick: float = 1.0
    """between two looks whether the broker is there; it hears as often of what holds tasks"""
    confirm: float = 30.0
    """without the confirm of a message until the connection is taken for dead"""
    answer: float = 5.0
    """without an answer of a queue until it is told of; its consumer goes on waiting"""
    unanswered: float = _outside(40.0, 40.0)
    """until it is asked anew, on another channel; the broker itself waits for it for 30 s"""
    backoff: float = 2.0
    """between two attempts to connect at most"""
    connect: float = _outside(4.0, 4.0)
    """of one attempt to connect; into a black hole a SYN goes at 0, 1 and 3 s, whatever we do"""
    open: float = _outside(10.0, 10.0)
    """until a connection is whole the first time, and longer from then on: what is busy needs it"""
    longest_open: float = _outside(30.0, 30.0)
    """until it is at most"""

    @property
    def silent(self) -> float:
        """Seconds of silence of the broker until the connection is taken for dead."""
        return self.silence * self.heartbeat

    def ticks(self, seconds: float) -> int:
        """Return a time as a number of whole ticks.

        Ticks of the loop are counted, not the clock: a process that was stopped for a minute, or
        whose loop was held up, must not mistake its own sleep for the broker's silence.
        """
        return max(1, int(seconds / self.tick + 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding(Part):
    """Of an agent, for tasks that it has and that have not started."""

    dissolve: float = 1.0
    """of its bundle until a task that has not started is handed back"""
    longest: float = 16.0
    """the same for what comes again and again while the agent is full"""
    orphaned: float = _outside(22.0, 6.0)
    """for which one is kept whose connection was lost: the broker may bring it here again"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports(Part):
    """Of what agents tell dispatchers: what has ended, and how much of each bulkhead they have."""

    period: float = 0.5
    """between two reports of an agent that has something to tell"""
    confirm: float = 2.0
    """until one that the broker has not confirmed is given up, and the next is due"""
    lately: float = 1.5
    """from the grant of a task until an agent must have told of it"""
    heard: float = _outside(25.0, 7.0)
    """for which a report counts without another, unless its agent has failed or left: by then the
    broker has given others what it had; as long a task must be nowhere that is to have ended"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers(Part):
    """Of dispatchers among themselves, who own limits and ask each other for permits."""

    presence: float = 0.5
    """between two signs of life of a dispatcher"""
    alive: float = 2.0
    """without one until others own what it owned"""
    listens: float = 1.0
    """for which one that begins owns nothing, and is told all"""
    tells_all: float = 0.25
    """between two times that it is told all by another"""
    look: float = 0.05
    """between two looks at who is there and who has not answered"""
    answer: float = 0.6
    """for which an answer is waited for; an owner whose machine is busy takes as long, and who goes
    on without it passes less"""
    asked_anew: float = 0.1
    """after which another owner is asked: the answer of the one before may have been under way; and
    for which one that owns a bulkhead from now on waits to hear what the one before has granted"""
    held: float = 1.5
    """for which a task waits when nobody owns its limit: all have just started"""
    deaf: float = 5.0
    """without our own word's coming back until tasks do not wait here for an owner any more"""
    unheard: float = 1.0
    """after which an owner is taken to let nothing through itself"""

    @property
    def stood_still(self) -> float:
        """Seconds of standing still after which others may soon own what one owned."""
        return self.alive / 2

    @property
    def spilled(self) -> float:
        """Seconds for which it is remembered what a full bucket had no room for.

        As long as it may have no owner, and until the next owner is told what was used meanwhile.
        """
        return self.alive + self.presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies(Part):
    """Of the policies in force: how soon a process has them, and who is missing."""

    check: float = 30.0
    """between two comparisons of a process's set with the policy service's, and its reports"""
    stale: float = 90.0
    """without a report until nobody knows what a process runs"""
    gone: float = 10.0
    """without one until a process that is no longer in Consul is forgotten"""
    forgotten: float = 600.0
    """the same when Consul cannot be asked"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues(Part):
    """Of patience with queues that refuse, confirm nothing or belong to nobody."""

    patience: float = 5.0
    """without a confirm, while others have theirs, until a copy of a task waits elsewhere"""
    cancel: float = 10.0
    """after that until the publish itself is given up: a late confirm makes it be tried again"""
    stuck: float = 5.0
    """for which one that did not confirm is not tried"""
    most_stuck: float = 60.0
    """the same at most; each task that tries stays with the broker, which bounds how many may"""
    shut: float = 0.25
    """for which one that refused is not tried"""
    reply: float = 120.0
    """for which a reply that nobody waits for any more goes on being tried"""
    silence: float = 10.0
    """without any confirm until a queue's late replies are dropped for want of room"""
    leftover: float = _outside(30.0, 6.0)
    """without a message until the queue of an agent that is gone is removed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry(Part):
    """Of a dispatcher that ends what is over in lanes whose agents are gone, or busy.

    Two looks after its deadline, which is rounded up to a second, a task's lane is turned over; two
    more, and once `every`, where agents are that take nothing.
    """

    look: float = 1.0
    """between two looks at a lane in which a deadline has passed"""
    every: float = 5.0
    """between two looks at one that agents read, or of whose tasks nobody may know the deadlines"""
    answer: float = 3.0
    """for which the answer of a queue is waited for that is turned over"""
    settle: float = 10.0
    """for which what was taken there is waited for, until it is given back to the queue"""
    longest: float = 60.0
    """until a queue that did not answer is turned over again, at most"""
