"""How dispatchers and agents publish on the hot path: bundles per key, results, replies.

Every `add_item` takes a `done` callback; see `maniple_runtime.publish.confirm`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from msgspec import Struct
from prometheus_client import Counter, Histogram

from maniple.amqp import Outgoing, Publisher
from maniple.amqp.batching import Bundler
from maniple.clock import SYSTEM_CLOCK
from maniple.codec import encode, join
from maniple.compression import GZIP, LEAST, MOST_A_MEMBER, compressed
from maniple.errors import PublishRefused
from maniple.identifiers import new_id
from maniple.messages import PROGRESS_TYPE, RESULT_TYPE, RESULTS_TYPE, Progress, Result
from maniple.timings import Queues
from maniple.topology import (
    DEFAULT,
    EVENTS,
    READS_COMPRESSED,
    REFUSED_KEY,
    REPLIES,
    REPLY_PREFIX,
    RESULTS,
    Exchange,
    progress_key,
)
from maniple_runtime.direct_replies import is_direct
from maniple_runtime.metric_names import (
    BUNDLE_TASKS,
    BUNDLES_SENT,
    BYTES_SENT,
    PUBLISHES_REFUSED,
    PUBLISHES_RETURNED,
    REPLIES_DROPPED,
)
from maniple_runtime.publish.batch_options import REFUSED_PAUSE, BatchOptions
from maniple_runtime.publish.confirm import (
    AllConfirmed,
    ConfirmCallback,
    Together,
    Turn,
    as_ours,
    ignored,
    tell,
    together,
)
from maniple_runtime.publish.record_first import RecordFirst
from maniple_runtime.publish.replies import Replies, Reply
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.metrics import Children

MAX_KEYS = 512
# Of single messages more; see `maniple.amqp.first_publish` for what 32 unconfirmed would do.
SINGLES_WINDOW = 24
# Records have no reader who waits, and cost the broker as much as a reply if they travel alone.
RECORD_PATIENCE = 0.01
# Progress is a courtesy: a queue that confirms none must not use up what others' may take.
PROGRESS_SECONDS = 5.0


class Item(Struct, eq=False):
    """What was added: `count` values that are encoded, with commas between them."""

    encoded: bytes
    done: ConfirmCallback
    count: int = 1


class _Sent(NamedTuple):
    """What bundles are counted by."""

    bundles: Counter
    bytes: Counter
    tasks: Children[Histogram]


class BatchPublisher:
    """Bundles to one exchange, collected per routing key.

    Keys that rest are forgotten, so that outside names cannot fill the memory.
    """

    def __init__(
        self,
        publisher: Publisher,
        exchange: Exchange,
        message_type: str,
        options: BatchOptions | None = None,
    ) -> None:
        """Publish bundles of `message_type` to `exchange`."""
        options = options or BatchOptions()
        self._publisher = publisher
        self._exchange = exchange.name
        self._type = message_type
        self._options = options
        self._bundlers: dict[str, Bundler[Item]] = {}
        self._forget_at = MAX_KEYS
        self._answered, self._monotonic = options.answered, options.monotonic
        self._sent = None if options.metrics is None else self._counted(options.metrics)
        self.kept = 0
        """Bytes that were added and whose end has not been told."""

    def _counted(self, metrics: Metrics) -> _Sent:
        # Prometheus sees a counter rise only from a value that was there before.
        for name in (BUNDLES_SENT, BYTES_SENT, PUBLISHES_REFUSED, PUBLISHES_RETURNED):
            metrics.counter(name, self._exchange)
        return _Sent(
            metrics.counter(BUNDLES_SENT, self._exchange),
            metrics.counter(BYTES_SENT, self._exchange),
            metrics.histograms(BUNDLE_TASKS),
        )

    def add_item(self, key: str, encoded: bytes, done: ConfirmCallback, count: int = 1) -> None:
        """Send one encoded item under `key`, or `count` of them with commas between them."""
        size = len(encoded)
        self.kept += size
        self._bundler(key).add(Item(encoded, done, count), size, count)

    def limit(self, key: str, max_items: int) -> None:
        """Bound bundles under `key` to `max_items`, while the key is in use."""
        known = self._bundlers.get(key)
        if known is not None:
            known.max_items = max_items

    def most(self, key: str) -> int:
        """Return how many items a bundle under `key` has at most."""
        known = self._bundlers.get(key)
        return self._options.size_of(key) if known is None else known.max_items

    def withdraw(self, key: str) -> list[ConfirmCallback]:
        """Take back what waits under `key` and has not been sent; return whom to tell."""
        known = self._bundlers.get(key)
        items = [] if known is None else known.withdraw()
        self.kept -= sum([len(item.encoded) for item in items])
        return [item.done for item in items]

    def cancel(self, key: str, given_up: Callable[[ConfirmCallback], bool]) -> None:
        """Give up bundles under `key` none of which anybody waits for; none is told of their end.

        They may arrive nevertheless, but are not sent again over a new connection.
        """
        known = self._bundlers.get(key)
        if known is not None:
            known.cancel(lambda item: given_up(item.done))

    async def drain(self) -> None:
        """Return when everything added has been sent."""
        for bundler in list(self._bundlers.values()):
            await bundler.drain()

    def _bundler(self, key: str) -> Bundler[Item]:
        known = self._bundlers.get(key)
        if known is not None:  # one that is empty is false
            return known
        if len(self._bundlers) >= self._forget_at:
            self._bundlers = {k: b for k, b in self._bundlers.items() if not b.idle}
            self._forget_at = max(MAX_KEYS, 2 * len(self._bundlers))

        bundler = self._bundlers[key] = Bundler(
            partial(self._send, key),
            max_items=self._options.size_of(key),
            window=self._options.window,
            patience=self._options.patience,
        )
        return bundler

    def _send(self, key: str, items: list[Item]) -> asyncio.Future[None]:
        message, options = self._message(key, items), self._options
        if options.insist or options.timeout is not None:
            sending: asyncio.Future[None] = asyncio.ensure_future(self._insist(message))
        else:
            sending = self._publisher.start(message)
        size, since = len(message.body), self._monotonic()
        sending.add_done_callback(partial(self._ended, items, size, since))
        return sending

    def _ended(
        self,
        items: list[Item],
        size: int,
        since: float,
        sending: asyncio.Future[None],
    ) -> None:
        self.kept -= sum([len(item.encoded) for item in items])
        if sending.cancelled():
            return
        failure = sending.exception()
        if failure is None:
            self._count(sum([item.count for item in items]), size)
            if self._answered is not None:
                self._answered(since)
        elif isinstance(failure, PublishRefused) and not self._options.insist:
            self._count_refusal(failure)
        tell([item.done for item in items], None if failure is None else as_ours(failure))

    def _message(self, key: str, items: list[Item]) -> Outgoing:
        options, encoding = self._options, None
        body = join([item.encoded for item in items])
        most = MOST_A_MEMBER * sum([item.count for item in items])
        if LEAST <= len(body) <= most and options.compresses(key):
            body, encoding = compressed(body), GZIP
        return Outgoing(
            self._exchange,
            key,
            body,
            message_id=new_id(),
            type=self._type,
            headers=options.headers_of(key),
            persistent=not options.courtesy,
            mandatory=not options.courtesy,
            once=options.once,
            encoding=encoding,
        )

    def _count(self, items: int, size: int) -> None:
        sent = self._sent
        if sent is not None:
            sent.bundles.inc()
            sent.bytes.inc(size)
            sent.tasks[self._exchange,].observe(items)

    def _count_refusal(self, error: PublishRefused) -> None:
        if self._options.metrics is not None:
            name = PUBLISHES_RETURNED if error.unroutable else PUBLISHES_REFUSED
            self._options.metrics.counter(name, self._exchange).inc()

    async def _insist(self, message: Outgoing) -> None:
        while True:
            try:
                await self._publisher.publish(message, timeout=self._options.timeout)
            except PublishRefused as error:
                if not self._options.insist:
                    raise
                self._count_refusal(error)
                await asyncio.sleep(REFUSED_PAUSE)
            else:
                return


class _ReplyPublisher(BatchPublisher):
    """Replies to addresses that outsiders chose, each as a message of its own."""

    def __init__(self, publisher: Publisher) -> None:
        options = BatchOptions(size_of=lambda _: 1, window=SINGLES_WINDOW)
        super().__init__(publisher, DEFAULT, RESULT_TYPE, options)

    def _message(self, key: str, items: list[Item]) -> Outgoing:
        (item,) = items
        reply = item.done
        assert isinstance(reply, Reply)  # noqa: S101 - what is added here
        return Outgoing(
            "",
            key,
            item.encoded,
            message_id=new_id(),  # the task's id may be longer than AMQP takes here
            type=reply.type,
            correlation_id=reply.correlation_id,
            mandatory=not is_direct(key),
        )


def _reads_compressed(address: str) -> bool:
    return address.startswith(READS_COMPRESSED)


class ResultPublisher:
    """Sends results: to the record stream always, to whoever asked for a reply as well.

    A reply that nobody can take, or that seems to break connections, is counted and dropped: the
    record has it. Nobody waits long for one that is not confirmed, see `Replies`.
    """

    def __init__(
        self,
        publisher: Publisher,
        metrics: Metrics,
        *,
        replier: Publisher,
        times: Queues | None = None,
        monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        """Publish through `publisher`; replies to addresses that outsiders chose, by `replier`."""
        self._turn: Turn[tuple[str, str | None], ConfirmCallback] = Turn(self._report)
        self._in_flight_replies = Replies(metrics.counter(REPLIES_DROPPED).inc, times, monotonic)
        records = BatchOptions(
            insist=True,
            patience=RECORD_PATIENCE,
            metrics=metrics,
            answered=self._in_flight_replies.answered,
            monotonic=monotonic,
        )
        self._records = BatchPublisher(publisher, RESULTS, RESULTS_TYPE, records)
        verdicts = replace(records, insist=False, once=True)
        self._verdicts = BatchPublisher(publisher, RESULTS, RESULTS_TYPE, verdicts)
        self.record_first = RecordFirst(self._verdicts, self.reply)
        """For what nobody runs: its sender is told when that is on record."""
        counted = BatchOptions(metrics=metrics, compresses=_reads_compressed)
        self._replies = BatchPublisher(publisher, REPLIES, RESULTS_TYPE, counted)
        self._single_replies = _ReplyPublisher(replier)
        told = BatchOptions(courtesy=True, timeout=PROGRESS_SECONDS)
        self._progress = BatchPublisher(publisher, REPLIES, PROGRESS_TYPE, told)
        watched = BatchOptions(courtesy=True)
        self._watched = BatchPublisher(publisher, EVENTS, PROGRESS_TYPE, watched)

    @property
    def kept(self) -> int:
        """Bytes of results that were reported and are not recorded yet."""
        return self._turn.kept + self._records.kept + self._verdicts.kept

    def report_result(
        self,
        result: Result,
        reply_to: str | None,
        correlation_id: str | None,
        done: ConfirmCallback,
    ) -> None:
        """Record `result` and reply; `done` when both are confirmed, or the reply is late."""
        encoded = encode(result)
        if reply_to is None or reply_to.startswith(REPLY_PREFIX):
            self._turn.add((result.capability, reply_to), encoded, done)
            return
        both = AllConfirmed(2, done).part
        self._records.add_item(result.capability, encoded, both)
        self.reply(encoded, reply_to, correlation_id, both)

    def _report(self, places: tuple[str, str | None], results: Together[ConfirmCallback]) -> None:
        """Record what has come in one turn, and send it to the SDK client that asked for it."""
        capability, reply_to = places
        encoded, count, done = (
            results.joined(),
            len(results.members),
            together(results.members),
        )
        if reply_to is None:
            self._records.add_item(capability, encoded, done, count)
            return
        both = AllConfirmed(2, done).part
        self._records.add_item(capability, encoded, both, count)
        place = (self._replies, reply_to.removeprefix(REPLY_PREFIX))
        self._in_flight_replies.send_reply(place, encoded, both, count=count)

    def refuse(self, result: Result, done: ConfirmCallback) -> None:
        """Record what was never admitted; `done` when that is confirmed.

        Whatever names stand in it, it travels with others of its kind.
        """
        self._records.add_item(REFUSED_KEY, encode(result), done)

    def reply(
        self,
        encoded: bytes,
        reply_to: str,
        correlation_id: str | None,
        done: ConfirmCallback,
        *,
        offered: bool = False,
    ) -> None:
        """Send an encoded result to `reply_to` only; `offered` as `Replies.offer` says."""
        send = self._in_flight_replies.offer if offered else self._in_flight_replies.send_reply
        if reply_to.startswith(REPLY_PREFIX):
            client = reply_to.removeprefix(REPLY_PREFIX)
            send((self._replies, client), encoded, done)
            return
        place = (self._single_replies, reply_to)
        send(place, encoded, done, type_=RESULT_TYPE, correlation_id=correlation_id)

    def drop_late_replies(self, *, taking: bool) -> None:
        """Stop waiting for replies that are late; to be called now and then, see `Replies`."""
        self._in_flight_replies.drop_late(taking=taking)

    def announce(
        self, encoded: bytes, message_type: str, reply_to: str, correlation_id: str | None
    ) -> None:
        """Tell a plain submitter something that is not the end; an SDK client waits for that."""
        if not reply_to.startswith(REPLY_PREFIX):
            place = (self._single_replies, reply_to)
            self._in_flight_replies.send_reply(
                place, encoded, ignored, type_=message_type, correlation_id=correlation_id
            )

    def publish_progress(
        self, progress: Progress, reply_to: str | None, done: ConfirmCallback = ignored
    ) -> None:
        """Tell watchers, and a submitter that is an SDK client, how far a task is.

        Plain reply queues get results only: their readers expect one object.
        """
        encoded = encode(progress)
        to_client = reply_to is not None and reply_to.startswith(REPLY_PREFIX)
        part = AllConfirmed(2, done).part if to_client else done
        self._watched.add_item(progress_key(progress.capability), encoded, part)
        if reply_to is not None and to_client:
            self._progress.add_item(reply_to.removeprefix(REPLY_PREFIX), encoded, part)

    async def drain_results(self) -> None:
        """Return when everything reported has been sent."""
        self._turn.send_all()
        await self._records.drain()
        await self._verdicts.drain()
        await self._in_flight_replies.drain()
        await self._progress.drain()
        await self._watched.drain()
