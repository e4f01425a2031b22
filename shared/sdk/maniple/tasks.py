"""A user's handlers: functions marked with `@task`, and how they are to be run.

`@task` only marks; nothing is registered at import. A `TaskRegistry` (`task_registry.py`) collects
marked functions from modules, for an agent, a worker process or a test.
"""

import contextlib
import inspect
import re
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib.machinery import ModuleSpec
from types import FrameType
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from maniple import callables
from maniple.codec import decode_value
from maniple.errors import ConfigurationError
from maniple.messages import CAPABILITY_PATTERN, MAX_NAME, RetryPlan
from maniple.task_context import TaskContext, current_task
from maniple.task_options import check_options
from maniple.topology import BATCH_KEY
from maniple.values import Decode, decoder_of

__all__ = [
    "DEFAULT_ATTEMPTS",
    "DEFAULT_TIMEOUT",
    "Executor",
    "TaskContext",
    "TaskDefinition",
    "TaskOptions",
    "check_capability",
    "current_task",
    "define",
    "definition_of",
    "is_capability",
    "task",
]

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__maniple_task__"
NOTES = "__maniple_notes__"
SUSPECT_SUFFIX = ".suspect"
DEFAULT_ATTEMPTS = 1
DEFAULT_TIMEOUT = 300.0


class Executor(StrEnum):
    """Where a handler runs, never on the event loop of the connections.

    `ASYNC`: on the handlers' event loop; `THREAD`: in a thread; `PROCESS`: in a worker process, for
    CPU-bound work and for handlers that may crash or must be killed at their timeout.
    """

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


class TaskOptions(TypedDict, total=False):
    """Options of `@task`. `timeout` is seconds for one attempt, `memory` bytes of a process.

    `exclusive`: when its agent loses the broker, an attempt is stopped before another one can run
    elsewhere. `affinity`: tasks with the same affinity key go to the same agent.
    """

    timeout: float
    max_attempts: int
    retry: RetryPlan
    executor: Literal["async", "thread", "process"]
    on_lost: Literal["retry", "fail"]
    memory: int
    exclusive: bool
    affinity: bool


@dataclass(frozen=True)
class Mark:
    """The capability and options that `@task` attaches to a function."""

    capability: str
    options: TaskOptions


@dataclass(frozen=True)
class Note:
    """A function marked while a module was imported, whether or not the module keeps it."""

    mark: Mark
    place: str
    function: weakref.ref[Callable[..., Any]]


@dataclass(frozen=True)
class TaskDefinition:
    """A handler and how it is to be run.

    `decode` decodes its payload from JSON; it raises `InvalidMessage` for one that is not valid.
    """

    capability: str
    function: Callable[..., Any]
    executor: Executor
    takes_context: bool
    payload_type: Any = Any
    decode: Decode = field(default=decode_value, repr=False, compare=False)
    timeout: float | None = None
    max_attempts: int | None = None
    retry: RetryPlan | None = None
    on_lost: Literal["retry", "fail"] = "retry"
    memory: int | None = None
    exclusive: bool = False
    affinity: bool = False


def task(capability: str, **options: Unpack[TaskOptions]) -> Callable[[F], F]:
    """Mark a function as the handler of `capability`.

    The function takes the payload, and a `TaskContext` if it has a second parameter, and returns
    any JSON value. `async def` runs on the handlers' event loop, a plain function in a thread, with
    `executor="process"` in a process. A payload with an annotation is validated. What is loaded is
    the module's attribute of the function's name, with all decorators above this one. Raises
    `ConfigurationError` for a wrong name or option.
    """
    given: Any = capability
    if not isinstance(given, str):
        raise ConfigurationError(
            f"@task wants the name of a capability, not a {type(given).__name__}; "
            "write @task('a.name')"
        )
    check_capability(capability)

    def mark(function: F) -> F:
        callables.check(function, capability)
        _executor(capability, function, options)
        try:
            setattr(function, MARK, Mark(capability, options))
        except AttributeError as error:
            why = "it cannot be marked; mark the def itself"
            raise callables.wrong(function, capability, why) from error
        if not callables.is_method(function):  # it is found only when bound to an object
            callables.takes_context(function, capability)
        _note(function, sys._getframe(1))  # noqa: SLF001 - where it is marked
        return function

    return mark


def _note(function: Any, frame: FrameType) -> None:
    """Remember a function marked at the top level of a module, until that is imported again.

    Functions marked inside functions or classes are left to whoever keeps them.
    """
    spec = frame.f_globals.get("__spec__")
    if frame.f_code.co_name != "<module>" or not isinstance(spec, ModuleSpec):
        return
    with contextlib.suppress(TypeError):  # some objects have no weak references
        note = Note(getattr(function, MARK), callables.place_of(function), weakref.ref(function))
        vars(spec).setdefault(NOTES, []).append(note)  # a spec is one import's


@lru_cache(maxsize=1024)  # the same few are asked for with every task
def is_capability(name: str) -> bool:
    """Tell whether `name` may be a capability: see `check_capability`."""
    return (
        len(name) <= MAX_NAME
        and re.match(CAPABILITY_PATTERN, name) is not None
        and not name.endswith(SUSPECT_SUFFIX)
        and name != BATCH_KEY
    )


def check_capability(capability: str) -> None:
    """Raise `ConfigurationError` unless `capability` is a dotted lower-case name."""
    if not is_capability(capability):
        raise ConfigurationError(
            f"capability {capability!r} must be a dotted lower-case name such as 'text.stats' "
            f"of at most {MAX_NAME} characters, without {SUSPECT_SUFFIX!r} at its end, "
            f"and other than {BATCH_KEY!r}"
        )


def mark_of(function: Any) -> Mark | None:
    """Return the mark of a function, or of one that it wraps; None if there is none."""
    if not callable(function):
        return None
    try:
        mark = getattr(function, MARK, None)
    except Exception:  # noqa: BLE001 - a proxy may raise whatever it likes
        return None
    return mark if type(mark) is Mark else None


def definition_of(function: Any) -> TaskDefinition:
    """Return how a marked function is to be run, with its decorators.

    Raises `ConfigurationError` if it has no mark, or has parameters that nobody fills.
    """
    mark = mark_of(function)
    if mark is None:
        raise ConfigurationError(f"{function!r} is not marked with @task")
    return define(mark.capability, function, mark.options)


def define(capability: str, function: Callable[..., Any], options: TaskOptions) -> TaskDefinition:
    """Return the definition of a handler.

    Raises `ConfigurationError` for options that conflict, and for something that can be no handler.
    """
    callables.check(function, capability)
    payload_type = callables.payload_type(function, capability)
    rest = {k: v for k, v in options.items() if k != "executor" and v is not None}
    return TaskDefinition(
        capability=capability,
        function=function,
        executor=_executor(capability, function, options),
        takes_context=callables.takes_context(function, capability),
        payload_type=payload_type,
        decode=_decoder(payload_type, function, capability),
        **rest,  # type: ignore[arg-type]  # TaskOptions has the fields of TaskDefinition
    )


def _decoder(payload_type: Any, function: Callable[..., Any], capability: str) -> Decode:
    try:
        return decoder_of(payload_type, capability)
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise callables.wrong(
            function,
            capability,
            f"its payload is annotated with what cannot be validated ({why}); take a pydantic "
            "model, a dataclass, a typed dict or a JSON type, or leave the annotation out",
        ) from error


def _executor(capability: str, function: Callable[..., Any], options: TaskOptions) -> Executor:
    """Return where a handler runs. Raises `ConfigurationError` for options that conflict."""
    try:
        check_options(capability, options)
    except ConfigurationError as error:
        place = callables.place_of(function)
        raise ConfigurationError(f"{place}: {error}" if place else str(error)) from error
    is_async = callables.is_async(function)
    executor = Executor(options.get("executor") or ("async" if is_async else "thread"))
    if executor is Executor.ASYNC and not is_async:
        why = "executor 'async' wants an async def"
        raise callables.wrong(function, capability, why)
    if executor is not Executor.ASYNC and inspect.iscoroutinefunction(callables.body_of(function)):
        why = f"executor {executor.value!r} wants a plain function, not an async def"
        raise callables.wrong(function, capability, why)
    if executor is Executor.THREAD and options.get("exclusive"):
        raise callables.wrong(
            function,
            capability,
            "a thread cannot be stopped, so it cannot be exclusive; "
            "make it an async def, or give it executor='process'",
        )
    return executor
