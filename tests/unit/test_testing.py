import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest
from pydantic import BaseModel

from maniple import (
    ConfigurationError,
    ErrorCode,
    InvalidMessage,
    ManipleError,
    ResultTimeout,
    RetryPlan,
    Status,
    TaskContext,
    TaskExpired,
    TaskFailed,
    task,
)
from maniple.testing import cluster


class Text(BaseModel):
    text: str


@task("test.echo")
async def echo(payload: object) -> object:
    return payload


@task("test.shout")
def shout(payload: Text) -> Text:
    return Text(text=payload.text.upper())


@task("test.describe")
async def describe(_: object, context: TaskContext) -> dict[str, object]:
    return {
        "id": context.task_id,
        "attempt": context.attempt,
        "tenant": context.tenant,
        "labels": dict(context.labels),
    }


@task("test.hang")
async def hang(_: object) -> None:
    await asyncio.sleep(3600)


@task("test.block", timeout=0.05)
def block(_: object) -> None:
    time.sleep(0.2)


@task("test.bad")
async def bad(_: object) -> object:
    return object()


@task("test.steps")
def steps(payload: int, context: TaskContext) -> str:
    for step in range(payload):
        context.progress({"step": step})
    return "done"


async def test_a_task_returns_what_its_handler_returns() -> None:
    async with cluster(echo) as client:
        handle = await client.submit("test.echo", {"a": [1, None, "ü"]})
        assert await handle.result(5) == {"a": [1, None, "ü"]}
        assert (await handle.outcome()).status is Status.SUCCEEDED
        assert client.outstanding == 0


async def test_models_are_validated_and_returned_as_json() -> None:
    async with cluster(shout) as client:
        assert await (await client.submit("test.shout", Text(text="a"))).result(5) == {"text": "A"}
        with pytest.raises(TaskFailed) as caught:
            await (await client.submit("test.shout", {"txt": "a"})).result(5)
        assert caught.value.code is ErrorCode.INVALID_TASK
        assert caught.value.detail["errors"][0]["at"] == ["text"]


async def test_a_handler_sees_the_options_of_its_task() -> None:
    async with cluster(describe, tenant="blue") as client:
        handle = await client.submit("test.describe", id="job-7", labels={"region": "eu"})
        assert handle.id == "job-7"
        assert await handle.result(5) == {
            "id": "job-7",
            "attempt": 1,
            "tenant": "blue",
            "labels": {"region": "eu"},
        }


async def test_a_failing_handler_is_tried_again_at_once_until_it_succeeds() -> None:
    calls: list[int] = []

    @task("test.flaky", max_attempts=3, retry=RetryPlan(base=600))
    async def flaky(_: object, context: TaskContext) -> str:
        calls.append(context.attempt)
        if context.attempt < 3:
            raise ValueError("not yet")
        return "at last"

    async with cluster(flaky) as client:
        result = await (await client.submit("test.flaky")).outcome(5)
        assert (result.attempt, calls) == (3, [1, 2, 3])
        calls.clear()
        with pytest.raises(TaskFailed, match="not yet"):
            await (await client.submit("test.flaky", max_attempts=2)).result(5)
        assert calls == [1, 2]


async def test_only_the_codes_of_the_retry_plan_are_retried() -> None:
    calls: list[int] = []

    @task("test.once", max_attempts=3, retry=RetryPlan(codes=(ErrorCode.TIMEOUT,)))
    async def once(_: object, context: TaskContext) -> None:
        calls.append(context.attempt)
        raise ValueError("no timeout")

    async with cluster(once) as client:
        with pytest.raises(TaskFailed):
            await (await client.submit("test.once")).result(5)
    assert calls == [1]


@pytest.mark.parametrize(
    ("capability", "options", "code"),
    [
        ("test.hang", {"timeout": 0.05}, ErrorCode.TIMEOUT),
        ("test.block", {}, ErrorCode.TIMEOUT),
        ("test.bad", {}, ErrorCode.INVALID_OUTPUT),
    ],
)
async def test_a_bad_handler_gets_its_code(
    capability: str, options: dict[str, float], code: ErrorCode
) -> None:
    async with cluster(hang, block, bad) as client:
        handle = await client.submit(capability, **options)  # type: ignore[arg-type]
        with pytest.raises(TaskFailed) as caught:
            await handle.result(5)
    assert caught.value.code is code
    assert caught.value.task_id == handle.id


async def test_a_task_that_nobody_offers_expires_without_waiting() -> None:
    async with cluster(echo) as client:
        with pytest.raises(TaskExpired) as caught:
            await (await client.submit("test.other")).result(5)
    assert caught.value.code is ErrorCode.NO_AGENT


async def test_a_deadline_ends_a_task_that_runs_or_waits() -> None:
    async with cluster(hang, slots=1) as client:
        deadline = datetime.now(UTC) + timedelta(seconds=0.1)
        handles = [await client.submit("test.hang", deadline=deadline) for _ in range(2)]
        for handle in handles:
            with pytest.raises(TaskExpired) as caught:
                await handle.result(5)
            assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_progress_is_heard_in_order_until_the_task_ends() -> None:
    async with cluster(steps) as client:
        handle = await client.submit("test.steps", 5)
        seen = [value["step"] async for value in handle.progress()]
        assert await handle.result(5) == "done"
    assert seen == sorted(seen)
    assert seen[-1] == 4


async def test_waiting_for_a_result_has_an_end_and_the_task_goes_on() -> None:
    async with cluster(hang) as client:
        handle = await client.submit("test.hang")
        with pytest.raises(ResultTimeout):
            await handle.result(0.01)
        with pytest.raises(TimeoutError):
            await handle.result(0.01)
        assert not handle.done
        assert client.outstanding == 1


async def test_closing_the_client_tells_whoever_still_waits() -> None:
    async with cluster(hang) as client:
        handle = await client.submit("test.hang")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
    with pytest.raises(ManipleError, match="closed"):
        await waiting
    with pytest.raises(ManipleError, match="closed"):
        await client.submit("test.hang")


async def test_an_id_cannot_be_outstanding_twice_but_can_be_used_again() -> None:
    async with cluster(hang, echo) as client:
        await client.submit("test.hang", id="same")
        with pytest.raises(InvalidMessage):
            await client.submit("test.echo", id="same")
        await client.submit("test.echo", id="same", tenant="other")
        for _ in range(2):
            assert await (await client.submit("test.echo", 1, id="again")).result(5) == 1


async def test_handlers_are_taken_from_modules_too() -> None:
    module = ModuleType("handlers")
    vars(module)["echo"] = echo
    async with cluster(module) as client:
        assert await (await client.submit("test.echo", 3)).result(5) == 3
    with pytest.raises(ConfigurationError):
        async with cluster(lambda payload: payload):
            pass
