"""Learning good results from the records, while a fallback is in force that gives them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from maniple.errors import BrokerUnavailable, InvalidMessage
from maniple.messages import RESULTS_TYPE, Result
from maniple_dispatcher.record_stream import Reading, reading
from maniple_dispatcher.result_cache import ResultCache
from maniple_runtime.policy_view import PolicyView
from maniple_runtime.records import Batch, Entry, decode_records
from maniple_runtime.runtime import Runtime

LOOK = 0.5
LOOKS_BACK = timedelta(minutes=5)
ASTRAY_AFTER = 10.0  # seconds; what was read last comes at once, unless the broker is unwell
PAUSE = 0.02  # seconds between batches, for the tasks' sake
_MARK = b'"payload_digest"'


class ResultLearner:
    """Keeps `good` up to date over a connection of its own, and empty when nobody needs it."""

    def __init__(self, runtime: Runtime, policies: PolicyView, good: ResultCache) -> None:
        self._runtime = runtime
        self._policies = policies
        self._good = good

    async def learn_results(self) -> None:
        """Read along whenever it is needed, until cancelled."""
        while True:
            if not self._wanted:
                await asyncio.sleep(LOOK)
                continue
            try:
                start = self._runtime.clock.now() - LOOKS_BACK
                async with reading(
                    self._runtime, "records", self._take, start=start, decode=decode_good
                ) as one:
                    astray = await _astray(one, lambda: not self._wanted)
                if astray:  # what was learned is as good as it was
                    self._runtime.log.warning(
                        "good results are learned from a few minutes ago on",
                        reason="maniple.records was declared anew, or its end has been lost",
                    )
                    continue
            except BrokerUnavailable as error:
                self._runtime.log.info("good results are not learned", reason=str(error))
                await asyncio.sleep(LOOK)
            self._good.clear()

    @property
    def _wanted(self) -> bool:
        return self._policies.current.gives_last_good

    async def _take(self, batch: Batch) -> None:
        for entry in batch.entries:
            if isinstance(entry.record, Result):
                try:
                    self._good.learn_result(entry.record)
                except Exception:  # one of them must not cost the others
                    self._runtime.log.exception("a result cannot be learned from")
        await asyncio.sleep(PAUSE)


async def _astray(one: Reading, ended: Callable[[], bool]) -> bool:
    """Return when it is `ended`, or has by itself; True if what was read last is not there now."""
    missing = 0.0
    while not (ended() or one.work.done() or missing >= ASTRAY_AFTER):
        await asyncio.sleep(LOOK)
        missing = missing + LOOK if one.link.is_up and not one.reader.in_place else 0.0
    return missing >= ASTRAY_AFTER


def decode_good(kind: str | None, body: bytes, offset: int) -> list[Entry | InvalidMessage]:
    """Decode a message of the records only if one in it may be a good result."""
    return decode_records(kind, body, offset) if kind == RESULTS_TYPE and _MARK in body else []
