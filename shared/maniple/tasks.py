"""What a user's handlers are: functions marked with `@task`, and the context they may take.

`@task` only marks; nothing is registered at import. A `TaskRegistry` collects marked functions from
modules, for an agent, a worker process or a test.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_type_hints

import structlog

from maniple.errors import ConfigurationError, ProgressDropped
from maniple.messages import CAPABILITY_PATTERN, MAX_NAME, RetryPlan
from maniple.task_options import check_options
from maniple.topology import BATCH_KEY
from maniple.traceparent import trace_id_of

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__maniple_task__"
SUSPECT_SUFFIX = ".suspect"
DEFAULT_ATTEMPTS = 1
DEFAULT_TIMEOUT = 300.0


class Executor(StrEnum):
    """Where a handler runs, never on the loop that owns the connections.

    `ASYNC`: on the handlers' event loop; `THREAD`: in a thread; `PROCESS`: in a worker process, for
    CPU-bound work and for what may crash or must be stopped at its timeout.
    """

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


class TaskOptions(TypedDict, total=False):
    """Options of `@task`. `timeout` is seconds for one attempt, `memory` bytes of a process.

    `exclusive`: an attempt is stopped before it can run elsewhere too, when its agent has lost the
    broker. `affinity`: tasks with the same affinity key go to the same agent.
    """

    timeout: float
    max_attempts: int
    retry: RetryPlan
    executor: Literal["async", "thread", "process"]
    on_lost: Literal["retry", "fail"]
    memory: int
    exclusive: bool
    affinity: bool


class Reported:
    """Whether a progress value was taken; if not, `refusal` says why. May be awaited too."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: str | None = None) -> None:
        """Say that it was taken, or why not."""
        self.refusal = refusal

    def __bool__(self) -> bool:
        return self.refusal is None

    def __await__(self) -> Generator[None, None, bool]:
        yield from ()
        return bool(self)


@lru_cache(maxsize=1024)
def _warn_once(capability: str, refusal: str) -> None:
    """Log for who wrote the handler, but not each time: it may report in a tight loop."""
    log = structlog.get_logger("maniple.task")
    log.warning("progress was dropped", capability=capability, reason=refusal)


current_task: ContextVar["TaskContext | None"] = ContextVar("maniple_current_task", default=None)
"""The task whose handler runs here: what is logged meanwhile is about it."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a handler may know and do, if it has a second parameter.

    `deadline` is the task's; `timeout` the seconds this attempt has. `attempt` counts from 1.
    """

    task_id: str
    capability: str
    attempt: int
    deadline: datetime
    timeout: float
    tenant: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    agent: str = ""
    traceparent: str | None = None
    report: Callable[[Any], None] | None = None

    @property
    def logger(self) -> Any:
        """A structlog logger bound to the task."""
        return structlog.get_logger("maniple.task").bind(
            task_id=self.task_id,
            capability=self.capability,
            attempt=self.attempt,
            agent=self.agent,
            **({} if self.traceparent is None else {"trace_id": trace_id_of(self.traceparent)}),
        )

    def progress(self, value: Any) -> Reported:
        """Tell watchers and the submitter how far the task is: any JSON value up to 64 KiB.

        At most ten a second are sent, the latest wins. Returns false for what is dropped, because
        it is larger or no JSON. May be awaited; need not be.
        """
        try:
            if self.report is not None:
                self.report(value)
        except ProgressDropped as why:
            _warn_once(self.capability, str(why))
            return Reported(str(why))
        return Reported()


@dataclass(frozen=True)
class TaskDefinition:
    """A handler and how it is to be run."""

    capability: str
    function: Callable[..., Any]
    executor: Executor
    takes_context: bool
    payload_type: Any = Any
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
    any JSON value. `async def` runs on the handlers' loop, a plain function in a thread, with
    `executor="process"` in a process. A payload annotated with a pydantic model, dataclass or typed
    dict is validated. Raises `ConfigurationError` for a wrong name or option.
    """
    check_capability(capability)

    def mark(function: F) -> F:
        setattr(function, MARK, define(capability, function, options))
        return function

    return mark


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


def define(capability: str, function: Callable[..., Any], options: TaskOptions) -> TaskDefinition:
    """Return the definition of a handler. Raises `ConfigurationError` for options that clash."""
    check_options(capability, options)
    is_async = inspect.iscoroutinefunction(function)
    executor = Executor(options.get("executor") or ("async" if is_async else "thread"))
    if is_async != (executor is Executor.ASYNC):
        raise ConfigurationError(
            f"{capability}: executor {executor.value!r} wants "
            f"{'an async def' if executor is Executor.ASYNC else 'a plain function'}"
        )
    if executor is Executor.THREAD and options.get("exclusive"):
        raise ConfigurationError(
            f"{capability}: a thread cannot be stopped, so it cannot be exclusive; "
            "make it an async def, or give it executor='process'"
        )
    parameters = _positional(capability, function)
    rest = {k: v for k, v in options.items() if k != "executor" and v is not None}
    return TaskDefinition(
        capability=capability,
        function=function,
        executor=executor,
        takes_context=len(parameters) > 1,
        payload_type=_payload_type(function, parameters),
        **rest,  # type: ignore[arg-type]  # TaskOptions has the fields of TaskDefinition
    )


def _positional(capability: str, function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    if not 1 <= len(names) <= 2:  # noqa: PLR2004 - payload, context
        raise ConfigurationError(f"{capability}: a handler takes (payload) or (payload, context)")
    return names


def _payload_type(function: Callable[..., Any], parameters: list[str]) -> Any:
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        return Any  # an annotation that only a type checker can resolve
    return hints.get(parameters[0], Any)


class TaskRegistry:
    """The handlers that a process offers, by capability."""

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        """Take marked functions."""
        self._definitions: dict[str, TaskDefinition] = {}
        for function in functions:
            self.add(function)

    def add(self, function: Callable[..., Any]) -> None:
        """Take one marked function. Raises `ConfigurationError` if it has no mark or a twin."""
        definition = getattr(function, MARK, None)
        if not isinstance(definition, TaskDefinition):
            raise ConfigurationError(f"{function!r} is not marked with @task")
        known = self._definitions.get(definition.capability)
        if known is not None and known.function is not definition.function:
            raise ConfigurationError(f"two handlers for {definition.capability!r}")
        self._definitions[definition.capability] = definition

    def collect(self, module: ModuleType) -> None:
        """Take every marked function that `module` has by name."""
        for value in list(vars(module).values()):
            if callable(value) and isinstance(getattr(value, MARK, None), TaskDefinition):
                self.add(value)

    def get(self, capability: str) -> TaskDefinition | None:
        """Return the handler of a capability."""
        return self._definitions.get(capability)

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)


def load_registry(modules: Iterable[str]) -> TaskRegistry:
    """Import modules by name (`package.handlers`, or a path ending in `.py`) and collect handlers.

    The current directory is importable. Raises `ConfigurationError` that names the module.
    """
    registry = TaskRegistry()
    for name in modules:
        try:
            registry.collect(_import(name))
        except ConfigurationError as error:
            raise ConfigurationError(f"handlers {name!r}: {error}") from error
        except Exception as error:
            text = error if isinstance(error, ImportError) else repr(error)
            raise ConfigurationError(f"handlers {name!r} cannot be imported: {text}") from error
    return registry


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)
