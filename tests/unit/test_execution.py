import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from contexts import context_for
from maniple.errors import ErrorCode, InvalidMessage, TaskError
from maniple.execution import Outcome, run_async, run_sync
from maniple.messages import MAX_OUTPUT
from maniple.tasks import TaskContext, TaskDefinition, definition_of, task
from maniple.values import encode_output


class Point(BaseModel):
    x: int
    y: int = 0


@dataclass
class Size:
    width: int


def definition(function: Callable[..., Any]) -> TaskDefinition:
    return definition_of(task("test.task")(function))


def context(timeout: float = 5.0) -> TaskContext:
    return context_for("test.task", timeout)


def run(function: Callable[..., Any], payload: bytes = b"null") -> Outcome:
    return run_sync(definition(function), context(), payload)


def raising(error: BaseException) -> Callable[[object], None]:
    def fail(_: object) -> None:
        raise error

    return fail


def code_of(outcome: Outcome) -> ErrorCode | None:
    return outcome.failure.code if outcome.failure else None


def test_the_payload_goes_in_and_the_output_comes_out() -> None:
    assert run(lambda payload: {"got": payload}, b'[1,"\xc3\xbc"]').output == (
        b'{"got":[1,"\xc3\xbc"]}'
    )


def test_the_context_is_given_to_whoever_wants_it() -> None:
    def wants(_: object, given: TaskContext) -> str:
        return given.task_id

    assert run(wants).output == b'"1"'


def test_a_payload_that_does_not_fit_its_model_is_not_tried_again() -> None:
    def moved(point: Point) -> Point:
        return Point(x=point.x + 1)

    assert run(moved, b'{"x":1}').output == b'{"x":2,"y":0}'
    refused = run(moved, b'{"x":"a"}')
    assert (code_of(refused), refused.retryable) == (ErrorCode.INVALID_TASK, False)
    assert refused.failure is not None
    assert refused.failure.detail["errors"][0]["at"] == ["x"]
    assert "'a'" not in json.dumps(refused.failure.detail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("bad"), ErrorCode.HANDLER_ERROR),
        (RecursionError(), ErrorCode.HANDLER_ERROR),
        (MemoryError(), ErrorCode.HANDLER_ERROR),
        (ValueError("\ud800"), ErrorCode.HANDLER_ERROR),
        (SystemExit(3), ErrorCode.HANDLER_CRASHED),
        (KeyboardInterrupt(), ErrorCode.HANDLER_CRASHED),
    ],
)
def test_whatever_a_handler_raises_is_its_outcome(error: BaseException, code: ErrorCode) -> None:
    outcome = run(raising(error))
    assert code_of(outcome) is code
    assert outcome.retryable
    assert outcome.failure is not None
    outcome.failure.message.encode()


def test_a_handler_may_say_when_to_try_again() -> None:
    outcome = run(raising(TaskError(ErrorCode.OVERLOADED, "later", retry_after=7.0, detail={})))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.retry_after) == (ErrorCode.HANDLER_ERROR, 7.0)


async def test_an_async_handler_is_stopped_at_its_timeout() -> None:
    stopped = asyncio.Event()

    async def slow(_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    outcome = await run_async(definition(slow), context(timeout=0.02), b"null")
    assert code_of(outcome) is ErrorCode.TIMEOUT
    assert stopped.is_set()


async def test_a_timeout_of_the_handlers_own_is_its_error() -> None:
    async def own(_: object) -> None:
        raise TimeoutError("the database")

    outcome = await run_async(definition(own), context(), b"null")
    assert code_of(outcome) is ErrorCode.HANDLER_ERROR


async def test_cancelling_an_attempt_is_no_outcome() -> None:
    async def slow(_: object) -> None:
        await asyncio.sleep(60)

    attempt = asyncio.create_task(run_async(definition(slow), context(), b"null"))
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


def cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), b"\xff", {object()}, math.nan, [math.inf], "\ud800", cycle(), deep(), {(1, 2): 3}],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_is_an_invalid_output(value: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        encode_output(value)
    assert caught.value.code is ErrorCode.INVALID_OUTPUT


def test_an_output_over_the_limit_is_refused() -> None:
    assert len(encode_output("x" * (MAX_OUTPUT - 2))) == MAX_OUTPUT
    with pytest.raises(InvalidMessage) as caught:
        encode_output("x" * (MAX_OUTPUT - 1))
    assert caught.value.code is ErrorCode.INVALID_OUTPUT


def test_models_and_dataclasses_are_outputs() -> None:
    assert encode_output([Point(x=1), Size(2)]) == b'[{"x":1,"y":0},{"width":2}]'


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_out_as_it_went_in(value: object) -> None:
    outcome = run(lambda payload: payload, encode_output(value))
    assert outcome.failure is None
    assert json.loads(outcome.output) == value
