import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import pytest
from msgspec import Raw
from pydantic import BaseModel, Field

from channels import until_idle
from maniple import ErrorCode, InvalidMessage, ManipleError, Status, TaskFailed, task
from maniple.client import flow
from maniple.client.core import Client, _refused
from maniple.client.flow import Slot
from maniple.client.handle import OutstandingHandles, Ticket
from maniple.client.submission import encode_payload
from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.messages import Failure, Result, Task
from maniple.testing import cluster
from waiting import wait_until


@task("test.echo")
async def echo(payload: Any) -> Any:
    return payload


@task("test.odd")
async def odd(payload: int) -> int:
    await asyncio.sleep(0.001 * (7 - payload % 7))
    if payload % 10 == 3:
        raise ValueError(f"no {payload}")
    return payload


class Recorder:
    """A carrier that confirms at once and keeps tickets until the test settles them."""

    def __init__(self, refuse: ManipleError | None = None) -> None:
        self.tickets: list[Ticket] = []
        self.bodies: list[bytes] = []
        self.refuse = refuse

    def send(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)
        self.bodies.append(ticket.body)
        asyncio.get_running_loop().call_soon(ticket.confirmed, self.refuse)

    async def close(self) -> None:
        pass


def recorded(refuse: ManipleError | None = None) -> tuple[Client, Recorder, OutstandingHandles]:
    carrier, outstanding = Recorder(refuse), OutstandingHandles()
    return Client(carrier, outstanding, tenant="default"), carrier, outstanding


def succeeded(ticket: Ticket, output: object = 1) -> Result:
    return Result(
        id=ticket.id,
        capability=ticket.capability,
        tenant=ticket.tenant,
        status=Status.SUCCEEDED,
        output=Raw(json.dumps(output).encode()),
    )


async def gather_into(seen: list[Any], outputs: AsyncIterator[Any]) -> None:
    async for output in outputs:
        seen.append(output)  # noqa: PERF401 - what was seen before an error counts


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


async def test_map_keeps_the_order_of_its_input() -> None:
    async with cluster(odd) as client:
        outputs = [n async for n in client.map("test.odd", [n * 10 for n in range(40)])]
    assert outputs == [n * 10 for n in range(40)]


async def test_map_without_order_gives_each_output_once() -> None:
    async with cluster(odd) as client:
        outputs = [n async for n in client.map("test.odd", numbers(3), ordered=False)]
        assert sorted(outputs) == [0, 1, 2]
        many = client.map("test.odd", numbers(50), ordered=False, return_errors=True)
        outputs = [n async for n in many if not isinstance(n, TaskFailed)]
    assert sorted(outputs) == [n for n in range(50) if n % 10 != 3]


async def test_map_raises_the_first_error_or_gives_it_in_place() -> None:
    async with cluster(odd) as client:
        seen: list[Any] = []
        with pytest.raises(TaskFailed, match="no 3"):
            await gather_into(seen, client.map("test.odd", range(20)))
        assert seen == [0, 1, 2]
        outputs = [o async for o in client.map("test.odd", range(5), return_errors=True)]
    assert outputs[:3] == [0, 1, 2]
    assert isinstance(outputs[3], TaskFailed)
    assert outputs[4] == 4


async def test_map_over_nothing_ends() -> None:
    async with cluster(echo) as client:
        assert [o async for o in client.map("test.echo", [])] == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_never_has_more_than_its_window_outstanding(ordered: bool) -> None:
    taken = given = worst = 0

    def source() -> Iterator[int]:
        nonlocal taken, worst
        for number in range(500):
            taken += 1
            worst = max(worst, taken - given)
            yield number

    async with cluster(echo) as client:
        async for _ in client.map("test.echo", source(), window=10, ordered=ordered):
            given += 1
    assert given == 500
    assert worst <= 12  # one being read, one that waits for room


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_holds_few_large_tasks_while_the_broker_takes_none_and_outputs_are_not_read(
    monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    monkeypatch.setattr(flow, "MOST_BYTES", 100_000)
    client, carrier, outstanding = recorded()
    waiting: list[Ticket] = []

    def send(ticket: Ticket) -> None:  # it is not confirmed before the test says so
        waiting.append(ticket)

    monkeypatch.setattr(carrier, "send", send)
    mapped = client.map("test.echo", ["x" * 30_000] * 40, window=2000, ordered=ordered)
    first = asyncio.create_task(anext(mapped))
    await wait_until(lambda: len(waiting) == 4)
    for ticket in waiting[:2]:
        ticket.sent(None)
    await wait_until(lambda: len(waiting) == 6)

    async def turn() -> None:
        for ticket in waiting:
            ticket.sent(None)
            outstanding.settle_results([succeeded(ticket, "y" * 30_000)])
        await until_idle()

    for _ in range(10):
        await turn()
    assert len(waiting) <= 11  # those that were sent are the broker's; now their outputs wait
    seen: list[Any] = [await first]
    reading = asyncio.create_task(gather_into(seen, mapped))
    for _ in range(100):
        await turn()
    assert reading.done()
    assert len(seen) == 40


async def test_map_sends_no_more_tasks_than_outputs_as_large_as_the_last_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "MOST_BYTES", 100_000)
    client, carrier, outstanding = recorded()
    seen: list[Any] = []
    mapped = client.map("test.echo", range(200), window=20)
    reading = asyncio.create_task(gather_into(seen, mapped))
    await wait_until(lambda: len(carrier.tickets) == 20)
    outstanding.settle_results([succeeded(ticket, "y" * 30_000) for ticket in carrier.tickets])
    await wait_until(lambda: len(carrier.tickets) > 20)
    most = 0
    for _ in range(1000):
        await until_idle()
        most = max(most, client.outstanding)
        for ticket in carrier.tickets[len(seen) : len(seen) + 1]:
            outstanding.settle_results([succeeded(ticket, "y" * 30_000)])
    assert reading.done()
    assert len(seen) == 200
    assert most == 4


async def test_map_sends_a_task_that_is_larger_than_it_may_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "MOST_BYTES", 10)
    async with cluster(echo) as client:
        outputs = [o async for o in client.map("test.echo", ["x" * 1000] * 20)]
    assert outputs == ["x" * 1000] * 20


async def test_map_raises_what_its_input_raises_after_the_outputs_before_it() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("disk")

    seen: list[Any] = []
    async with cluster(echo) as client:
        with pytest.raises(OSError, match="disk"):
            await gather_into(seen, client.map("test.echo", source()))
    assert seen == [0, 1, 2]


async def test_outcomes_raises_for_what_is_no_task_after_the_results_before_it() -> None:
    tasks: list[Any] = [Task(capability="test.odd", payload=Raw(b"1")), "no task"]
    seen: list[Result] = []
    async with cluster(odd) as client:
        with pytest.raises(AttributeError):
            async with asyncio.timeout(30):
                await gather_into(seen, client.outcomes(tasks))
    assert [result.status for result in seen] == [Status.SUCCEEDED]


async def test_leaving_map_early_forgets_its_tasks() -> None:
    client, carrier, outstanding = recorded()
    mapped = client.map("test.echo", range(1000), window=50)
    first = asyncio.create_task(anext(mapped))
    await wait_until(lambda: len(carrier.tickets) == 50)
    outstanding.settle_results([succeeded(carrier.tickets[0], "first")])
    assert await first == "first"
    await mapped.aclose()
    assert client.outstanding == 0
    outstanding.settle_results([succeeded(carrier.tickets[1])])


async def test_a_payload_that_is_no_json_takes_only_its_own_place() -> None:
    async with cluster(echo) as client:
        mapped = client.map("test.echo", [1, object(), 2, float("nan")], return_errors=True)
        outputs = [output async for output in mapped]
    assert outputs[0::2] == [1, 2]
    assert all(isinstance(error, InvalidMessage) for error in outputs[1::2])


@pytest.mark.parametrize(
    ("capability", "payload", "options", "code"),
    [
        ("Text.Stats", None, {}, ErrorCode.INVALID_TASK),
        ("", None, {}, ErrorCode.INVALID_TASK),
        ("text.suspect", None, {}, ErrorCode.INVALID_TASK),
        ("a" * 129, None, {}, ErrorCode.INVALID_TASK),
        ("text.stats", float("inf"), {}, ErrorCode.INVALID_TASK),
        ("text.stats", {"a": [float("nan")]}, {}, ErrorCode.INVALID_TASK),
        ("text.stats", "\ud800", {}, ErrorCode.INVALID_TASK),
        ("text.stats", {1, object()}, {}, ErrorCode.INVALID_TASK),
        ("text.stats", "x" * 1024 * 1024, {}, ErrorCode.PAYLOAD_TOO_LARGE),
        ("text.stats", None, {"ttl": -1.0}, ErrorCode.INVALID_TASK),
        ("text.stats", None, {"max_attempts": 0}, ErrorCode.INVALID_TASK),
        ("text.stats", None, {"tenant": ""}, ErrorCode.INVALID_TASK),
        ("text.stats", None, {"labels": {"a": 1}}, ErrorCode.INVALID_TASK),
        ("text.stats", None, {"labels": {"a": object()}}, ErrorCode.INVALID_TASK),
        ("text.stats", None, {"deadline": datetime(2030, 1, 1)}, ErrorCode.INVALID_TASK),  # noqa: DTZ001
        ("text.stats", None, {"id": "a\nb"}, ErrorCode.INVALID_TASK),
        (
            "text.stats",
            None,
            {"ttl": 1.0, "deadline": datetime.now(UTC) + timedelta(hours=1)},
            ErrorCode.INVALID_TASK,
        ),
    ],
)
async def test_what_the_dispatcher_would_refuse_is_never_sent(
    capability: str, payload: object, options: dict[str, Any], code: ErrorCode
) -> None:
    client, carrier, _ = recorded()
    with pytest.raises(InvalidMessage) as caught:
        await client.submit(capability, payload, **options)
    assert caught.value.code is code
    assert not carrier.tickets
    assert client.outstanding == 0


async def test_too_deep_a_payload_is_never_sent() -> None:
    client, carrier, _ = recorded()
    payload: list[Any] = []
    for _ in range(150):
        payload = [payload]
    with pytest.raises(InvalidMessage, match="nested"):
        await client.submit("text.stats", payload)
    assert not carrier.tickets


async def test_a_task_is_sent_with_nothing_but_what_was_said() -> None:
    client, carrier, _ = recorded()
    await client.submit("text.stats", {"a": None}, id="x", ttl=5.0, labels={"k": "v"})
    assert json.loads(carrier.bodies[0]) == {
        "capability": "text.stats",
        "payload": {"a": None},
        "id": "x",
        "ttl": 5.0,
        "labels": {"k": "v"},
    }


async def test_the_first_result_wins_and_later_ones_are_ignored() -> None:
    client, carrier, outstanding = recorded()
    handle = await client.submit("text.stats")
    outstanding.settle_results([succeeded(carrier.tickets[0], 1), succeeded(carrier.tickets[0], 2)])
    outstanding.settle_results([succeeded(carrier.tickets[0], 3)])
    assert await handle.result() == 1


async def test_a_refusal_of_a_whole_message_reaches_all_its_tasks() -> None:
    client, carrier, outstanding = recorded()
    handles = [await client.submit("text.stats") for _ in range(3)]
    for ticket in carrier.tickets[:2]:
        ticket.message_id = "message"
    failure = Failure(code=ErrorCode.RATE_LIMITED, message="slow down", retry_after=2.5)
    refused = Result(id="message", capability="batch", status=Status.REJECTED, error=failure)
    outstanding.settle_results([refused])
    for handle in handles[:2]:
        with pytest.raises(ManipleError, match="slow down") as caught:
            await handle.result()
        assert getattr(caught.value, "retry_after", None) == 2.5
    assert not handles[2].done


def refusal(about: str, message: str, **fields: Any) -> Result:
    """Return how a dispatcher answers bad input."""
    failure = Failure(
        code=ErrorCode.DEADLINE_EXCEEDED,
        message="too late",
        detail={"id": about, "message_id": message},
    )
    fields.setdefault("id", about)
    return Result(capability="text.stats", status=Status.REJECTED, error=failure, **fields)


async def test_a_refusal_ends_the_handle_of_its_own_message_only() -> None:
    client, carrier, outstanding = recorded()
    handle = await client.submit("text.stats", id="x")
    carrier.tickets[0].message_id = "second"
    outstanding.settle_results([refusal("x", "first")])  # it was submitted before, and given up
    outstanding.settle_results(
        [refusal("x", "second", id="maniple.refused.1")]
    )  # it stood there twice
    assert not handle.done
    outstanding.settle_results([refusal("x", "second")])
    with pytest.raises(ManipleError, match="too late"):
        await handle.result()


async def test_a_refusal_of_another_message_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client, carrier, outstanding = recorded()
    handle = await client.submit("text.stats", id="x")
    carrier.tickets[0].message_id = "second"
    outstanding.settle_results([refusal("x", "first")])
    assert not handle.done
    assert "task x was refused in another message, first" in caplog.text


@pytest.mark.parametrize("code", [ErrorCode.RATE_LIMITED, ErrorCode("newer")])
async def test_whoever_refuses_a_task_that_was_taken_ends_it_whatever_the_detail_says(
    code: ErrorCode,
) -> None:
    client, carrier, outstanding = recorded()
    handle = await client.submit("text.stats", id="x")
    carrier.tickets[0].message_id = "second"
    failure = Failure(code=code, message="not now", detail={"message_id": "of a policy"})
    refused = Result(id="x", capability="text.stats", status=Status.REJECTED, error=failure)
    outstanding.settle_results([refused])
    with pytest.raises(ManipleError, match="not now"):
        await handle.result()


@pytest.mark.parametrize("detail", [None, 3, ["id"], "identity", {"id": "x"}])
def test_any_detail_of_a_refusal_can_be_told(detail: Any) -> None:
    slot = Slot("x", "default", "text.stats", b"")
    error = InvalidMessage(ErrorCode.INVALID_TASK, "no", detail=detail)
    told = _refused(slot, error)
    assert (told.id == "x") == (not isinstance(detail, dict))


async def test_a_task_that_is_outstanding_is_not_ended_by_a_second_one_of_its_id() -> None:
    tasks = [Task(capability="test.odd", payload=Raw(b"1"), id="x") for _ in range(2)]
    async with cluster(odd) as client:
        results = [result async for result in client.outcomes(tasks)]
    assert [(r.id == "x", r.status) for r in results] == [(True, "succeeded"), (False, "rejected")]
    assert results[1].error is not None
    assert results[1].error.detail == {"id": "x"}


@pytest.mark.parametrize(
    ("capability", "options", "said"),
    [
        (5, {}, "5 is no capability"),
        ("test.echo", {"id": " "}, "id is blank"),
        ("test.echo", {"id": "\u00a0\u2003"}, "id is blank"),
        ("test.echo", {"tenant": " "}, "tenant is blank"),
        ("test.echo", {"id": UUID(int=1)}, "id must be a string, not UUID"),
        ("test.echo", {"id": b"job"}, "id must be a string, not bytes"),
        ("test.echo", {"tenant": UUID(int=1)}, "tenant must be a string, not UUID"),
        ("test.echo", {"repeated": "false"}, "repeated must be True or False, not 'false'"),
    ],
)
async def test_what_names_no_task_is_refused_before_anything_is_sent(
    capability: Any, options: Any, said: str
) -> None:
    client, carrier, _ = recorded()
    with pytest.raises(InvalidMessage, match=said) as refused:
        await client.submit(capability, **options)
    assert refused.value.code is ErrorCode.INVALID_TASK
    assert not carrier.tickets


async def test_a_submission_that_the_broker_refuses_raises_and_is_forgotten() -> None:
    client, _, _ = recorded(PublishRefused("maniple.tasks", "text.stats", unroutable=False))
    with pytest.raises(PublishRefused):
        await client.submit("text.stats")
    assert client.outstanding == 0
    results = [r async for r in client.outcomes([Task(capability="text.stats", id="x")])]
    assert results[0].status is Status.REJECTED
    assert results[0].error is not None
    assert results[0].error.code is ErrorCode.OVERLOADED


async def test_a_broker_that_is_gone_ends_map_and_outcomes() -> None:
    client, _, _ = recorded(BrokerUnavailable("gone"))
    with pytest.raises(BrokerUnavailable):
        _ = [o async for o in client.map("text.stats", range(3))]
    with pytest.raises(BrokerUnavailable):
        _ = [o async for o in client.outcomes([Task(capability="text.stats")])]
    assert client.outstanding == 0


async def test_outcomes_gives_a_result_for_every_task_good_or_bad() -> None:
    tasks = [
        Task(capability="test.echo", payload=Raw(b"1"), id="a"),
        Task(id="b"),
        Task(capability="test.echo", sealed=Raw(b"1"), id="c"),
        Task(capability="test.odd", payload=Raw(b"3"), id="d"),
    ]
    async with cluster(echo, odd) as client:
        results = [result async for result in client.outcomes(tasks)]
    assert [(r.id, r.status, r.error and r.error.code) for r in results] == [
        ("a", Status.SUCCEEDED, None),
        ("b", Status.REJECTED, ErrorCode.INVALID_TASK),
        ("c", Status.REJECTED, ErrorCode.NOT_SUPPORTED),
        ("d", Status.FAILED, ErrorCode.HANDLER_ERROR),
    ]


class Model(BaseModel):
    a_b: int = Field(alias="aB")


@dataclass
class Inner:
    x_y: Annotated[int, Field(alias="xY")]


@dataclass
class Outer:
    inner: list[Inner]
    model: Model


def test_fields_with_an_alias_go_by_that_as_in_outputs() -> None:
    assert bytes(encode_payload({"one": [Model(aB=1)]})) == b'{"one":[{"aB":1}]}'
    raw = encode_payload(Outer([Inner(2)], Model(aB=3)))
    assert json.loads(bytes(raw)) == {"inner": [{"xY": 2}], "model": {"aB": 3}}


def test_dataclasses_and_times_are_payloads_too() -> None:
    @dataclass
    class Job:
        at: datetime
        size: int | None

    raw = encode_payload(Job(datetime(2026, 1, 2, tzinfo=UTC), None))
    assert json.loads(bytes(raw)) == {"at": "2026-01-02T00:00:00Z", "size": None}
