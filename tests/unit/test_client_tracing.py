"""The span of a submission ends, whatever comes of it."""

import asyncio

import pytest
from msgspec import Raw
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from maniple import InvalidMessage, ManipleError
from maniple.client.core import Client
from maniple.client.handle import OutstandingHandles, Ticket
from maniple.client.submission import SubmitSpans, encode_task
from maniple.errors import BrokerUnavailable
from maniple.messages import MAX_BODY, Task


class Program:
    """A program that traces its submissions, over a carrier that the tests decide for."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tickets: list[Ticket] = []
        self.closed = False
        submitting = SubmitSpans(provider.get_tracer("a program"))
        self.client = Client(self, OutstandingHandles(), tenant="default", submitting=submitting)

    def send(self, ticket: Ticket) -> None:
        if self.closed:
            raise ManipleError("the client is closed")
        self.tickets.append(ticket)

    async def close(self) -> None: ...

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._kept.get_finished_spans())

    @property
    def errors(self) -> list[object]:
        """The `error.type` of each span that has ended."""
        return [(span.attributes or {}).get("error.type") for span in self.ended]


@pytest.fixture
async def program() -> Program:
    return Program()


def too_large() -> Task:
    """Return a task that is too large only with a traceparent."""
    bare = Task(id="large", capability="text.stats", payload=Raw(b'""'))
    room = MAX_BODY - len(encode_task(bare))
    return Task(id="large", capability="text.stats", payload=Raw(b'"%s"' % (b"x" * room)))


async def test_a_task_that_is_too_large_once_it_is_traced(program: Program) -> None:
    with pytest.raises(InvalidMessage):
        await program.client.submit_task(too_large())
    (result,) = [one async for one in program.client.outcomes([too_large()])]
    assert result.status == "rejected"
    assert program.errors == ["InvalidMessage"] * 2
    assert not any(span.status.is_ok for span in program.ended)


async def test_a_task_that_is_outstanding_already(program: Program) -> None:
    first = asyncio.create_task(program.client.submit("text.stats", id="twice"))
    await asyncio.sleep(0)
    with pytest.raises(InvalidMessage):
        await program.client.submit("text.stats", id="twice")
    (result,) = [
        one async for one in program.client.outcomes([Task(capability="text.stats", id="twice")])
    ]
    assert result.status == "rejected"
    assert program.errors == ["InvalidMessage"] * 2
    program.tickets[0].sent(None)
    await first
    assert program.errors[2:] == [None]


async def test_a_carrier_that_is_closed(program: Program) -> None:
    program.closed = True
    with pytest.raises(ManipleError):
        await program.client.submit("text.stats")
    assert program.errors == ["ManipleError"]


async def test_a_submission_that_is_cancelled_ends_with_what_becomes_of_it(
    program: Program,
) -> None:
    submitting = asyncio.create_task(program.client.submit("text.stats"))
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert program.ended == []
    program.tickets[0].sent(BrokerUnavailable("gone"))
    assert program.errors == ["BrokerUnavailable"]
