"""What decorators make of a handler is what is loaded, called and awaited."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

import pytest
from pydantic import BaseModel

import maniple.testing
from contexts import context_for
from maniple.errors import ConfigurationError, ErrorCode
from maniple.execution import Outcome, run_async, run_sync
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor, TaskContext, TaskDefinition, task

Function = Callable[..., Any]
seen: ContextVar[str] = ContextVar("seen", default="nothing")


class Order(BaseModel):
    number: int


def guard(function: Function) -> Function:
    @functools.wraps(function)
    def guarded(*args: Any) -> Any:
        return ["guarded", function(*args)]

    return guarded


def passing(function: Function) -> Function:
    """Is plain, and gives whatever its function gives."""

    @functools.wraps(function)
    def passed(*args: Any) -> Any:
        return function(*args)

    return passed


def bare(function: Function) -> Function:
    def hides(payload: Any) -> Any:
        return function(payload)

    return hides


class Counted:
    def __init__(self, function: Function) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, payload: Any) -> Any:
        return ["counted", self._function(payload)]


class Wrapped:
    @passing
    async def __call__(self, payload: int) -> int:
        return payload * 2

    @passing
    async def method(self, payload: int) -> int:
        return payload * 2

    @task("a.b")
    @passing
    async def marked(self, payload: int) -> int:
        return payload * 2


class Session:
    async def __call__(self, payload: dict[str, int]) -> dict[str, int]:
        await asyncio.sleep(0)
        return payload

    @task("a.method")
    async def method(self, order: Order) -> Order:
        return order


async def double(payload: int) -> int:
    await asyncio.sleep(0)
    return payload * 2


def plain(payload: int) -> int:
    return payload * 2


def loaded(function: Function) -> TaskDefinition:
    module = ModuleType("shop")
    vars(module)["handler"] = function
    registry = TaskRegistry()
    registry.collect(module)
    (definition,) = registry
    return definition


def context() -> TaskContext:
    return context_for("a.b", 5.0)


async def output_of(definition: TaskDefinition, payload: bytes) -> Outcome:
    if definition.executor is Executor.ASYNC:
        return await run_async(definition, context(), payload)
    return await asyncio.to_thread(run_sync, definition, context(), payload)


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (guard(task("a.b")(plain)), b'["guarded",42]'),
        (Counted(task("a.b")(plain)), b'["counted",42]'),
        (guard(guard(task("a.b")(plain))), b'["guarded",["guarded",42]]'),
        (task("a.b")(guard(plain)), b'["guarded",42]'),
        (task("a.b")(functools.lru_cache(plain)), b"42"),
        (functools.cache(task("a.b")(plain)), b"42"),
    ],
)
async def test_what_stands_above_the_mark_runs_too(handler: Function, expected: bytes) -> None:
    assert (await output_of(loaded(handler), b"21")).output == expected


@pytest.mark.parametrize(
    "handler",
    [
        task("a.b")(passing(double)),
        passing(task("a.b")(double)),
        task("a.b")(functools.partial(double)),
        task("a.b")(passing(functools.partial(passing(double)))),
        task("a.b")(Wrapped()),
        task("a.b")(functools.partial(Wrapped().method)),
        Wrapped().marked,
    ],
)
async def test_what_gives_a_coroutine_runs_on_the_loop_and_is_awaited(handler: Function) -> None:
    definition = loaded(handler)
    assert definition.executor is Executor.ASYNC
    assert (await output_of(definition, b"21")).output == b"42"
    assert (await output_of(definition, b'"x"')).failure is not None  # its payload is an int


async def test_objects_and_bound_methods_are_awaited_and_their_payload_is_validated() -> None:
    session = loaded(task("a.b")(Session()))
    method = loaded(Session().method)
    assert session.executor is method.executor is Executor.ASYNC
    assert (await output_of(session, b'{"a":1}')).output == b'{"a":1}'
    assert (await output_of(method, b'{"number":1}')).output == b'{"number":1}'
    for definition in (session, method):
        failure = (await output_of(definition, b'{"number":"x"}')).failure
        assert failure is not None
        assert failure.code is ErrorCode.INVALID_TASK


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_what_nobody_could_see_to_be_async_is_awaited_all_the_same(executor: Any) -> None:
    async def late(_: object) -> str:
        await asyncio.sleep(0)
        return seen.get()

    async def wrong(_: object) -> None:
        raise ValueError("as asked")

    async def slow(_: object) -> None:
        await asyncio.sleep(60)

    hidden = [loaded(task("a.b", executor=executor)(bare(one))) for one in (late, wrong, slow)]
    assert (await output_of(hidden[0], b"1")).output == b'"nothing"'
    failure = (await output_of(hidden[1], b"1")).failure
    assert failure is not None
    assert failure.message == "ValueError: as asked"
    late_context = context_for("a.b", 0.02)
    stopped = await asyncio.to_thread(run_sync, hidden[2], late_context, b"1")
    assert stopped.failure is not None
    assert stopped.failure.code is ErrorCode.TIMEOUT


async def test_a_decorator_that_runs_the_coroutine_itself_says_that_it_wants_a_thread() -> None:
    def running(function: Function) -> Function:
        @functools.wraps(function)
        def run(payload: Any) -> Any:
            given = function(payload)
            try:
                return asyncio.run(given)
            finally:
                given.close()

        return run

    definition = loaded(task("a.b", executor="thread")(running(double)))
    assert (await output_of(definition, b"21")).output == b"42"
    failure = (await output_of(loaded(task("a.b")(running(double))), b"21")).failure
    assert failure is not None
    assert failure.code is ErrorCode.HANDLER_ERROR
    assert "running event loop" in failure.message
    assert """@task("a.b", executor="thread")""" in failure.message


async def test_a_decorator_may_take_the_context_and_pass_on_less() -> None:
    def audited(function: Function) -> Function:
        @functools.wraps(function)
        def audit(payload: Any, context: TaskContext) -> Any:
            return [context.task_id, function(payload)]

        return audit

    definition = loaded(audited(task("a.b")(plain)))
    assert definition.takes_context
    assert definition.payload_type is int
    assert (await output_of(definition, b"21")).output == b'["1",42]'


async def test_a_generator_below_a_decorator_is_told_what_to_return() -> None:
    def plain_parts(_: object) -> Iterator[int]:
        yield 1

    async def late_parts(_: object) -> AsyncIterator[int]:
        yield 1

    def collecting(function: Function) -> Function:
        @functools.wraps(function)
        def collect(payload: Any) -> list[Any]:
            return list(function(payload))

        return collect

    for parts in (plain_parts, late_parts):
        failure = (await output_of(loaded(task("a.b")(passing(parts))), b"1")).failure
        assert failure is not None
        assert failure.code is ErrorCode.INVALID_OUTPUT
        assert "generator is not JSON: return a list" in failure.message
    assert (await output_of(loaded(task("a.b")(collecting(plain_parts))), b"1")).output == b"[1]"


async def test_what_takes_more_than_it_must_is_given_its_payload() -> None:
    def lavish(payload: int, *rest: object, **more: object) -> list[object]:
        return [payload, *rest, more]

    assert (await output_of(loaded(task("a.b")(lavish)), b"1")).output == b"[1,{}]"


async def test_a_guard_runs_in_the_cluster_in_memory_too() -> None:
    async with maniple.testing.cluster(guard(task("a.b")(plain))) as client:
        handle = await client.submit("a.b", 1)
        assert await handle.result(timeout=5) == ["guarded", 2]


async def test_a_decorator_may_give_the_second_argument_itself() -> None:
    def counting(function: Function) -> Function:
        @functools.wraps(function)
        def counted(*args: Any, **_: Any) -> Any:
            return function(args[0], 7)

        return counted

    def total(payload: int, retries: int) -> list[int]:
        return [payload, retries]

    definition = loaded(task("a.b")(counting(total)))
    assert definition.payload_type is int
    assert (await output_of(definition, b"21")).output == b"[21,7]"


def fails() -> Any:
    raise RuntimeError("DATABASE_URL is not set")


class Unset:
    """Is loaded by whoever asks for what it has or what it is, as settings may be."""

    @property
    def __class__(self) -> Any:
        return fails()

    @__class__.setter
    def __class__(self, _: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return fails()


class CalledUnset(Unset):
    def __call__(self) -> Any: ...


class WhollyUnset(CalledUnset):
    def __getattribute__(self, name: str) -> Any:
        return fails()


class Endless:
    def __getattr__(self, name: str) -> "Unset":
        return CalledUnset()

    def __call__(self) -> Any: ...


@pytest.mark.parametrize("kind", [Unset, CalledUnset, WhollyUnset, Endless])
def test_what_is_lazy_in_a_module_may_raise_when_it_is_looked_at(kind: type) -> None:
    module = ModuleType("shop")
    vars(module).update(settings=kind(), handler=task("a.b")(plain))
    vars(module)["helper"] = functools.partial(print, vars(module)["settings"])
    registry = TaskRegistry()
    registry.collect(module)
    registry.check_module(module)
    assert [one.capability for one in registry] == ["a.b"]


def test_one_method_of_one_object_is_one_handler_however_often_it_is_given() -> None:
    session = Session()
    assert len(TaskRegistry([session.method, session.method])) == 1
    with pytest.raises(ConfigurationError, match=r"two handlers for 'a\.method'"):
        TaskRegistry([session.method, Session().method])


class Tried(Protocol):
    attempt: int


async def test_a_context_may_be_annotated_with_a_protocol_of_ones_own() -> None:
    def tried(payload: int, context: Tried) -> list[int]:
        return [payload, context.attempt]

    assert (await output_of(loaded(task("a.b")(tried)), b"21")).output == b"[21,1]"
