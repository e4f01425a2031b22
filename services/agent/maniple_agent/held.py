"""The attempts in an agent: which have not started, and which the broker may bring again."""

from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime

from maniple.messages import Envelope
from maniple.tasks import Executor as Kind
from maniple.timings import Holding
from maniple_agent.bundle import Bundle
from maniple_agent.executors import Job
from maniple_agent.executors.jobs import key_of


class Attempts:
    """Every attempt that this agent has taken and whose end the broker has not confirmed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._jobs: dict[tuple[str, str, int], Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Remember a job; a copy of one that is known stays apart."""
        self._jobs.setdefault(job.key, job)

    def forget(self, job: Job) -> None:
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
        same = (known.reply_to, known.correlation_id) == (
            envelope.reply_to,
            envelope.correlation_id,
        )
        return job if same else None


class Waiting:
    """The jobs that have not started, by executor, and the suspects, which run one at a time.

    An orphan is a job whose delivery's connection is gone: the broker gives it to others, so it
    must not start. Should the broker bring it here again, it goes on waiting as if nothing had
    been.
    """

    def __init__(self, times: Holding | None = None) -> None:
        """Begin with none."""
        self._times = times or Holding()
        self._plain: dict[Kind, deque[Job]] = {kind: deque() for kind in Kind}
        self._suspects: deque[Job] = deque()
        self._hold = dict.fromkeys(Kind, self._times.dissolve)
        self._waited_at = dict.fromkeys(Kind, 0.0)
        self._orphans: dict[Job, float] = {}

    def __iter__(self) -> Iterator[Job]:
        for jobs in self._queues():
            yield from jobs

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        (self._suspects if job.suspect else self._plain[job.definition.executor]).append(job)

    def next(
        self, kind: Kind, *, suspects: bool, held: Callable[[Envelope], bool] | None = None
    ) -> Job | None:
        """Take out the next job for an executor; a suspect first, if one may run.

        What is `held` is passed over.
        """
        if suspects and self._suspects:
            job = _first(self._suspects, held)
            if job is not None and job.definition.executor is kind:
                self._suspects.remove(job)
                return job
        jobs = self._plain[kind]
        job = _first(jobs, held)
        if job is None:
            if not jobs:
                self._hold[kind] = self._times.dissolve
        elif job is jobs[0]:
            jobs.popleft()
        else:
            jobs.remove(job)
        return job

    def take_overdue(self, now: float) -> list[Job]:
        """Take out what has not started in time (a second) after its bundle's arrival.

        An executor that stays full gives up what comes again after 2, 4, 8 and 16 times as long,
        and begins anew once it has room, or when nothing has come again for that time.
        """
        overdue = _take(self._suspects, opened_by=now - self._times.dissolve)
        for kind, jobs in self._plain.items():
            if jobs:
                self._waited_at[kind] = now
            elif now - self._waited_at[kind] > self._times.dissolve:
                self._hold[kind] = self._times.dissolve
            late = _take(jobs, opened_by=now - self._hold[kind])
            if late:
                # The lane may well send it back to us: while we are full, ever more slowly.
                self._hold[kind] = min(self._times.longest, 2 * self._hold[kind])
            overdue += late
        return overdue

    def take_expired(self, now: datetime) -> list[Job]:
        """Take out what is over by `now`, the cluster's time."""
        expired = [job for job in self if job.envelope.deadline <= now]
        for job in expired:
            (self._suspects if job.suspect else self._plain[job.definition.executor]).remove(job)
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
        """Let an orphan wait again, as part of the bundle that brought it; False if it is none."""
        if self._orphans.pop(job, None) is None:
            return False
        job.envelope, job.bundle = envelope, bundle
        job.suspect = job.suspect or suspect
        self.add(job)
        return True

    def forget_orphans(self, now: float) -> list[Job]:
        """Take out the orphans that nobody has brought again in time."""
        old = [job for job, since in self._orphans.items() if now - since > self._times.orphaned]
        for job in old:
            del self._orphans[job]
        return old

    def _queues(self) -> Iterator[deque[Job]]:
        yield from self._plain.values()
        yield self._suspects


def _first(jobs: deque[Job], held: Callable[[Envelope], bool] | None) -> Job | None:
    """Return the first of these that is not held."""
    if held is None:
        return jobs[0] if jobs else None
    return next((job for job in jobs if not held(job.envelope)), None)


def _take(jobs: deque[Job], *, opened_by: float) -> list[Job]:
    """Take out the jobs whose bundle came at that time or before."""
    going = [job for job in jobs if job.bundle.opened_at <= opened_by]
    if going:
        staying = [job for job in jobs if job.bundle.opened_at > opened_by]
        jobs.clear()
        jobs.extend(staying)
    return going
