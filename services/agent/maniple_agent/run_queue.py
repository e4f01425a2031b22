"""The attempts in an agent: which have not started, and which the broker may bring again.

And what was measured of those of one lane that have ended.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Failure
from maniple.tasks import Executor as Kind
from maniple.tasks import TaskDefinition
from maniple.timings import Holding
from maniple_agent.fair_queue import FairQueue, FairShare, Held, first, take
from maniple_agent.jobs import Bundle, Job, key_of

FRESH = 0.3
SAMPLES = 4096
# What tells that something is wrong with the handler or what it needs, not with the task.
BREAKS = (
    ErrorCode.TIMEOUT,
    ErrorCode.HANDLER_ERROR,
    ErrorCode.HANDLER_CRASHED,
    ErrorCode.INVALID_OUTPUT,
)


@dataclass(slots=True)
class LaneMeasure:
    """Run times and bundle sizes of one lane: since the last report, and smoothed."""

    mean: float | None = None
    bundle: float | None = None
    times: list[float] = field(default_factory=list)
    runs: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    failing: int = 0
    """Failures after the last success."""

    def record_end(self, *, well: bool) -> None:
        """Count an end that tells how the lane is: a lost agent is a failure, bad input is none."""
        if well:
            self.succeeded += 1
            self.failing = 0
        else:
            self.failed += 1
            self.failing += 1

    def ends(self) -> tuple[int, int, int]:
        """Return (succeeded, failed, failing) since the last report, and begin anew."""
        found = self.succeeded, self.failed, self.failing
        self.succeeded = self.failed = self.failing = 0
        return found

    def ran(self, seconds: float, status: str, failure: Failure | None = None) -> None:
        """Record the run time of one attempt and how it ended."""
        if failure is None or failure.code in BREAKS:
            self.record_end(well=failure is None)
        self.runs += 1
        self.finished[status] = self.finished.get(status, 0) + 1
        if len(self.times) < SAMPLES:
            self.times.append(seconds)

    def bundled(self, tasks: int) -> None:
        """Record the size of a bundle that arrived."""
        known = tasks if self.bundle is None else self.bundle
        self.bundle = known + FRESH * (tasks - known)

    def make_report(self) -> tuple[int, float, float, dict[str, int]]:
        """Return (runs, mean, p99, finished by status) since the last report, and begin anew."""
        times, runs, finished = sorted(self.times), self.runs, self.finished
        self.times, self.runs, self.finished = [], 0, {}
        if not times:
            return 0, 0.0, 0.0, finished
        mean = sum(times) / len(times)
        self.mean = mean if self.mean is None else self.mean + FRESH * (mean - self.mean)
        return runs, mean, times[min(len(times) - 1, int(len(times) * 0.99))], finished


class Attempts:
    """Every attempt that this agent has taken and whose end the broker has not confirmed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._jobs: dict[tuple[str, str, int], Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add_attempt(self, job: Job) -> None:
        """Remember a job; a copy of one that is known stays apart."""
        self._jobs.setdefault(job.key, job)

    def forget_attempt(self, job: Job) -> None:
        """Forget a job: the broker has what came of it, or must give it to others."""
        known = self._jobs.pop(job.key, job)
        if known is not job:
            self._jobs[job.key] = known

    def same(self, envelope: Envelope) -> Job | None:
        """Return the job of the same attempt of the same submission, if it is here."""
        job = self._jobs.get(key_of(envelope))
        if job is None:
            return None
        known = job.envelope  # an id that somebody uses again asks for an answer of its own
        same = (known.capability, known.reply_to, known.correlation_id) == (
            envelope.capability,
            envelope.reply_to,
            envelope.correlation_id,
        )
        return job if same else None


class RunQueue:
    """The jobs that have not started, by executor, and the suspects, which run one at a time.

    An orphan is a job whose delivery's connection is gone: the broker gives it to others, so it
    must not start. Should the broker bring it here again, it goes on waiting as if nothing had
    been.
    """

    def __init__(self, times: Holding | None = None) -> None:
        """Begin with none."""
        self._times = times or Holding()
        self._turns = {kind: FairQueue(self._times.dissolve) for kind in Kind}
        self._shares: dict[str, FairShare] = {}
        self._suspects: deque[Job] = deque()
        self._orphans: dict[Job, float] = {}

    def __iter__(self) -> Iterator[Job]:
        for jobs in self._queues():
            yield from jobs

    def turns(self, kind: Kind) -> FairQueue:
        """Return what waits for an executor."""
        return self._turns[kind]

    def share(self, definition: TaskDefinition) -> FairShare:
        """Return the share that a capability has of its executor's slots."""
        known = self._shares.get(definition.capability)
        if known is None:
            turns = self._turns[definition.executor]
            known = self._shares[definition.capability] = turns.share(definition.capability)
        return known

    def usable(self, definition: TaskDefinition, slots: int) -> int:
        """Return how many of so many slots a capability can have, if no other wants any."""
        return self._turns[definition.executor].usable(definition.capability, slots)

    def enqueue(self, job: Job) -> None:
        """Queue a job for its turn."""
        if job.suspect:
            self._suspects.append(job)
            return
        share = job.share
        share.jobs.append(job)
        if not share.queued:
            self._turns[job.definition.executor].queue(share)

    def next(
        self,
        kind: Kind,
        free: int,
        *,
        suspects: bool,
        held: Held | None = None,
        spare: int | None = None,
    ) -> Job | None:
        """Take out the next job for an executor with `free` slots; a suspect first, if one may run.

        What is `held` is passed over. `spare` are the bytes of payloads that may run besides, if
        these are few.
        """
        if suspects and self._suspects:
            job = first(self._suspects, held)
            if job is not None and job.definition.executor is kind:
                self._suspects.remove(job)
                return job
        return self._turns[kind].next(free, held, spare)

    def take_overdue(self, now: float) -> list[Job]:
        """Take out what has not started in time (a second) after its bundle's arrival.

        A capability whose slots stay full gives up what comes again after 2, 4, 8 and 16 times as
        long, and begins anew once it has room, or when nothing has come again for that time.
        """
        overdue = take(self._suspects, opened_by=now - self._times.dissolve)
        for turns in self._turns.values():
            overdue += turns.take_overdue(now, self._times.longest)
        return overdue

    def take_expired(self, now: datetime) -> list[Job]:
        """Take out what is over by `now`, the cluster's time."""
        expired = [job for job in self if job.envelope.deadline <= now]
        for job in expired:
            (self._suspects if job.suspect else job.share.jobs).remove(job)
        return expired

    def take_all(self) -> list[Job]:
        """Take out everything."""
        jobs = list(self)
        for queue in self._queues():
            queue.clear()
        return jobs

    def put_away(self, job: Job, now: float) -> None:
        """Keep a job that must not start, for the case that it is brought again."""
        self._orphans[job] = now

    def put_away_lost(self, now: float) -> None:
        """Put away every job whose delivery's connection is gone."""
        for queue in self._queues():
            jobs = list(queue)
            queue.clear()
            for job in jobs:
                if job.bundle.alive:
                    queue.append(job)
                else:
                    self.put_away(job, now)

    def bring_back(self, job: Job, envelope: Envelope, bundle: Bundle, *, suspect: bool) -> bool:
        """Queue an orphan again, as part of the bundle that brought it; False if it is none."""
        if self._orphans.pop(job, None) is None:
            return False
        job.envelope, job.bundle = envelope, bundle
        job.suspect = job.suspect or suspect
        self.enqueue(job)
        return True

    def forget_orphans(self, now: float) -> list[Job]:
        """Take out the orphans that nobody has brought again in time."""
        old = [job for job, since in self._orphans.items() if now - since > self._times.orphaned]
        for job in old:
            del self._orphans[job]
        return old

    def _queues(self) -> Iterator[deque[Job]]:
        for turns in self._turns.values():
            yield from (share.jobs for share in turns)
        yield self._suspects
