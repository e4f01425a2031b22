"""The dispatchers as one: whoever owns a limit decides, and all know what it decided. Pure.

A dispatcher that begins, or that may have missed something (it was frozen, its connection was lost,
or its own word did not come back for so long that others may have what was its own), says so and
owns nothing for a second, which begins when it hears itself. The others tell it all they know; then
it says that it is ready, and counts from when that is heard, by all at about the same time.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from maniple import timings
from maniple.amqp.batching import MAX_BYTES
from maniple.messages import WIRE
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.limits.breaker import Ends
from maniple_dispatcher.limits.lease_client import LeaseClient
from maniple_dispatcher.limits.lease_owner import BREAKER, LeaseOwner, limit_asked
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit
from maniple_dispatcher.limits.listeners import Listeners
from maniple_dispatcher.limits.membership import Membership
from maniple_dispatcher.limits.messages import Ask, DispatcherReport, Grant
from maniple_dispatcher.limits.outstanding import OutstandingTasks, UnqueuedTasks
from maniple_dispatcher.limits.report_space import ReportSpace, taken
from maniple_dispatcher.limits.token_bucket import Taken
from maniple_dispatcher.limits.waiting_line import Then

REQUEST_BYTES = MAX_BYTES // 2
"""Of requests, answers and breakers in a report; as much for the rest."""


class Coordinator:
    """Where permits are asked for.

    `due` says that there is something to tell the others now.
    """

    def __init__(  # noqa: PLR0913 - what the limits are, and who is told of them
        self,
        me: str,
        owned: LeaseOwner,
        now: float,
        times: timings.Peers | None = None,
        *,
        lanes: LaneDeadlines | None = None,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        """Tell the others, and hear, which of the `lanes` are turned over.

        `wake` is called when something becomes due.
        """
        self._lanes = lanes
        self.owned = owned
        self._times = times or timings.Peers()
        self.peers = Membership(me, self._times, now)
        self.permits = LeaseClient(self.peers, owned.buckets.level, self._times)
        self._wake = wake
        self._outstanding = OutstandingTasks()
        self._knows_at = float("-inf")
        self._deferred: list[Callable[[float], None]] = []
        """Asked for before it is known what others have granted."""
        self.unqueued = UnqueuedTasks()
        self._unqueued_told_at = float("-inf")
        self._unqueued_told: dict[str, int] = {}
        self._due = True
        self._noticed = float("inf")  # nobody looks yet
        self._stood_still = self._times.stood_still
        self.life = 0
        """Rises whenever we begin anew."""
        self._hears_since: float | None = None
        self._full = False
        self._full_at = float("-inf")
        self._listeners = Listeners()
        self._telling_all = False
        self._leaving = False
        self._grants: deque[Grant] = deque()

    @property
    def due(self) -> bool:
        """Whether there is something to tell."""
        return self._due

    @due.setter
    def due(self, due: bool) -> None:
        self._due = due
        if due:
            self._wake()

    def take_permit(self, limit: Limit, now: float) -> Taken | None:
        """Return what is given at once of a limit that is ours; None if it is to be awaited."""
        if now - self._noticed > self._stood_still:
            self.notice(now)  # what came while we stood still asks before anybody looks
        bulkhead = limit if isinstance(limit, ConcurrencyLimit) else None
        if (bulkhead and now < self._knows_at) or not self.peers.owns(limit.key):
            return None
        given = self.owned.grant_permits(limit, 1, now, who=self.peers.me)
        if bulkhead and given.granted:
            self._outstanding.begins((bulkhead.key, bulkhead.lane))
        if not self.peers.alone:
            self.due = True
        return given

    def await_permit(self, limit: Limit, then: Then, now: float) -> None:
        """Wait for what `take_permit` has not given; `then` is told within about a second."""
        if isinstance(limit, ConcurrencyLimit):
            self._outstanding.begins((limit.key, limit.lane))
            then = partial(self._answered, limit, then)
        self._wait(limit, then, now)

    def _wait(self, limit: Limit, then: Then, now: float) -> None:
        if self.peers.owns(limit.key):  # room that is asked for too early
            self._deferred.append(partial(self._ask_again, limit, then))
        else:
            self.due |= self.permits.await_permit(limit, then, now)

    def _ask_again(self, limit: Limit, then: Then, now: float) -> None:
        """Take a permit for a task that has waited, or wait on."""
        given = self.take_permit(limit, now)
        if given is None:
            self._wait(limit, then, now)
            return
        if isinstance(limit, ConcurrencyLimit) and given.granted:
            self._outstanding.ends((limit.key, limit.lane))  # it counts since it began to wait
        if given.granted:
            then(True, given.wait(0))
        else:
            then(given.refusal, given.again)

    def _answered(
        self,
        limit: ConcurrencyLimit,
        then: Then,
        passes: bool | None,  # noqa: FBT001 - `Then`
        seconds: float,
    ) -> None:
        if not passes:
            self._goes_nowhere(limit)
        then(passes, seconds)

    def arrived(self, key: str, lane: str) -> None:
        """Record that a queue has, or may have, a task that got room in a bulkhead."""
        self._outstanding.arrives((key, lane))

    def found_no_lane(self, limit: ConcurrencyLimit, now: float) -> None:
        """Give back room whose task's lane is not there: it need not be looked for in that lane."""
        self._goes_nowhere(limit, missed=True)
        self._free(limit, now)

    def _goes_nowhere(self, limit: ConcurrencyLimit, *, missed: bool = False) -> None:
        """Record that a task does not reach its lane; if it `missed` that, perhaps none does."""
        if self._outstanding.ends((limit.key, limit.lane), missed=missed):
            if self.peers.owns(limit.key):
                self.owned.bulkheads.left_lanes(limit.key, (limit.lane,), self.peers.me)
            else:
                self.permits.left_lane(limit)

    def return_permit(self, limit: Limit, now: float) -> None:
        """Give back a permit that was not needed; of a bulkhead `lane` is where it did not go."""
        if isinstance(limit, ConcurrencyLimit) and limit.lane:
            self._goes_nowhere(limit)
        self._free(limit, now)

    def _free(self, limit: Limit, now: float) -> None:
        if self.peers.owns(limit.key):
            self.owned.return_permits(limit, 1, now)
        else:
            self.due |= self.permits.return_permit(limit)

    def record_outcomes(self, lane: str, ends: Ends, now: float) -> None:
        """Record how attempts ended in a lane, if its breaker is ours."""
        if self.peers.owns(BREAKER + lane):
            self.due |= self.owned.record_outcomes(lane, ends, now)

    def on_report(self, report: DispatcherReport, now: float) -> None:
        """Follow what a dispatcher says; our own word counts too, when it comes back."""
        if report.leaving:
            self.peers.on_leave(report.dispatcher)
        else:
            self._count(report, now)
        if report.dispatcher == self.peers.me:
            return
        self._follow(report, now)
        if self._lanes is not None:
            self._lanes.on_news(report.turns, now)
        for ask in report.asks:
            self._answer(ask, report.dispatcher, now)
        for grant in report.grants:
            self.due |= self.permits.on_grant(grant, now)

    def _count(self, report: DispatcherReport, now: float) -> None:
        """Record that a dispatcher is there, and whether it owns its part by now."""
        ready, is_me = report.ready, report.dispatcher == self.peers.me
        if is_me:  # not what was said before we began anew
            ready = ready and report.life == self.life
            self._hear_ourselves(now, ready=ready)
        if ready and not self.peers.is_counted(report.dispatcher):
            # From now on it owns some of what it has not been told yet.
            self.owned.bulkheads.keep_untold(self.peers.owns)
        new = self.peers.heard(report.dispatcher, now, ready=ready, wire=report.wire)
        if new and is_me:  # whoever was there before has told what it knew
            self.owned.bulkheads.recall(now, alone=self.peers.alone)
            self._knows_at = now + self._times.asked_anew  # what was granted just now is told yet
        listens = not is_me and not report.ready
        # Those who listen may report a hundred times as often as they are told all.
        may = listens and now - self._full_at >= self._times.tells_all
        if (new and not is_me) or (
            may and self._listeners.is_to_be_told(report.dispatcher, report.life)
        ):
            self._full = self.due = True
            self._full_at = now

    def _hear_ourselves(self, now: float, *, ready: bool) -> None:
        if self._hears_since is None:
            self._hears_since = now
        if ready:  # as we said when we had listened for long enough
            self._hears_since = min(self._hears_since, now - self._times.listens)

    def _follow(self, report: DispatcherReport, now: float) -> None:
        if report.going is not None:
            self.owned.bulkheads.record_unqueued(report.dispatcher, report.going, now)
        for key, level in report.levels.items():
            self.owned.buckets.follow_owner(key, level, now, ours=self.peers.owns(key))
        for key, room in report.rooms.items():
            ours, unsure = self.peers.owns(key), report.unsure.get(key, 0)
            self.owned.bulkheads.follow_owner(key, room, now, ours=ours, unsure=unsure)
        self.owned.follow_owners(report.breakers, now)

    def _answer(self, ask: Ask, asker: str, now: float) -> None:
        if ask.to != self.peers.me or not self.peers.owns(ask.key):
            return  # it will ask who owns it by then
        if ask.most and now < self._knows_at:
            self._deferred.append(partial(self._answer, ask, asker))
            return
        limit = limit_asked(ask)
        self.owned.used(limit, ask.used, now)
        self.owned.return_permits(limit, ask.freed, now)
        self.owned.bulkheads.left_lanes(ask.key, ask.left, asker)
        taken = self.owned.grant_permits(limit, ask.want, now, who=asker)
        self._grants.append(
            Grant(
                key=ask.key,
                to=asker,
                number=ask.number,
                granted=taken.granted,
                again=taken.again,
                first=taken.first,
                step=taken.step,
                undecided=taken.undecided,
            )
        )
        self.due = True

    def advance_time(self, now: float) -> None:
        """Do what is due by now; to be called some times a second."""
        if self.peers.may_be_replaced(now):
            self._begin_anew()
        self.peers.forget_silent(now)
        if self._deferred and now >= self._knows_at:
            deferred, self._deferred = self._deferred, []
            for ask in deferred:
                ask(now)
        for limit, waiting in self.permits.reassign_unanswered(now):
            used, freed = self.permits.settled(limit.key)
            self.owned.used(limit, used, now)
            self.owned.return_permits(limit, freed, now)
            for one in waiting:
                if isinstance(limit, ConcurrencyLimit):
                    self._ask_again(replace(limit, lane=one.lane), one.then, now)
                else:
                    self._ask_again(limit, one.then, now)
        self.due |= self.permits.due
        self.owned.bulkheads.forget_stale(self.peers.owns, now, hears=self.peers.hears(now))
        self.due |= self.owned.advance_breakers(self.peers.owns, now)

    def notice(self, now: float) -> None:
        """Record that we run, and begin anew if we stood still: others may own what was ours."""
        stood_still, self._noticed = now - self._noticed, now
        if stood_still > self._stood_still:
            self.rejoin(now)

    def rejoin(self, now: float) -> None:
        """Begin anew: something may have been missed."""
        self.peers.begin_hearing(now)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.peers.on_leave(self.peers.me)
        self.owned.bulkheads.disown_all()
        self.life += 1
        self._hears_since = None
        self.due = True

    def _has_listened(self, now: float) -> bool:
        since = self._hears_since
        return since is not None and now - since >= self._times.listens

    def leave(self) -> None:
        """Own nothing any more, from when this is heard."""
        self._leaving = self.due = True

    def make_report(self, now: float) -> DispatcherReport:
        """Return what is to be told now, as much as one message shall carry.

        What is left stays `due`.
        """
        if self._full:
            self.owned.mark_all_changed(now, self.peers.owns)
            self._full, self._telling_all = False, True
        elif self.peers.alone and not self._telling_all:
            # Rooms are for one who has just come, and owns some of them from now on.
            self.owned.buckets.discard_changes()
        requests, state = ReportSpace(REQUEST_BYTES), ReportSpace(REQUEST_BYTES)
        rooms = dict(state.fill(self.owned.bulkheads.changes(self.peers.owns)))
        report = DispatcherReport(
            dispatcher=self.peers.me,
            wire=WIRE,
            ready=not self._leaving and self._has_listened(now),
            leaving=self._leaving,
            life=self.life,
            grants=tuple(requests.fill(taken(self._grants))),
            asks=tuple(requests.fill(self.permits.asks(now))),
            breakers=tuple(requests.fill(self.owned.news(now))),
            rooms=rooms,
            unsure={k: n for k in rooms if (n := self.owned.bulkheads.unsure(k))},
            levels=dict(state.fill(self.owned.buckets.changes(now))),
            turns={} if self._lanes is None else self._lanes.take_turns(),
            going=self._unqueued_to_tell(now),
        )
        self._telling_all = self._telling_all and state.left <= 0
        self.due = requests.left <= 0 or state.left <= 0
        return report

    def _unqueued_to_tell(self, now: float) -> dict[str, int] | None:
        """Return what is on its way to queues, if that is to be told: now and then, while any is.

        None, as one says that is older, tells nothing.
        """
        if now - self._unqueued_told_at < self._times.presence:
            return None
        before, self._unqueued_told = self._unqueued_told, self.unqueued.lasting()
        self._unqueued_told_at = now
        self.owned.bulkheads.record_unqueued(self.peers.me, self._unqueued_told, now)
        return self._unqueued_told if before or self._unqueued_told else None
