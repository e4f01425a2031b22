"""The handlers that a process offers, collected from its modules."""

import gc
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from maniple import callables
from maniple.errors import ConfigurationError
from maniple.tasks import MARK, NOTES, Note, TaskDefinition, definition_of, mark_of

MOST_HIDDEN = 3


class TaskRegistry:
    """The handlers that a process offers, by capability."""

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        """Add marked functions."""
        self.definitions: dict[str, TaskDefinition] = {}
        """By capability; read for every task."""
        self._modules: set[str] = set()
        for function in functions:
            self.add(function)

    def add(self, function: Callable[..., Any]) -> None:
        """Add a marked function. Raises `ConfigurationError` if it has no mark or a twin."""
        definition = definition_of(function)
        known = self.definitions.get(definition.capability)
        if known is not None and known.function != function:  # a bound method is made each time
            both = (known.function, function)
            places = " and ".join(callables.place_of(one) or repr(one) for one in both)
            raise ConfigurationError(
                f"two handlers for {definition.capability!r}, {places}; "
                "give one another name, also if it is the other one decorated"
            )
        self.definitions[definition.capability] = definition

    def collect(self, module: ModuleType) -> None:
        """Add every marked function that is an attribute of `module`.

        Raises `ConfigurationError` if there is none. When all modules are collected, call
        `check_module` for each.
        """
        found = [value for value in list(vars(module).values()) if mark_of(value) is not None]
        for function in found:
            self.add(function)
        self._modules.add(module.__name__)
        if not found:
            self.check_module(module)  # which can tell more
            raise ConfigurationError(
                f"there is no handler in {getattr(module, '__file__', None) or module.__name__}; "
                "mark a function with @task('a.name'), and name the module that has it"
            )

    def check_module(self, module: ModuleType) -> None:
        """Raise `ConfigurationError` for a marked function in `module` that is never offered.

        Functions of other modules that are not collected are ignored.
        """
        for value in list(vars(module).values()):
            self._look_for_hidden(value, depth=MOST_HIDDEN)
        notes = getattr(getattr(module, "__spec__", None), NOTES, ())
        lost = [one for one in notes if one.mark.capability not in self.definitions]
        if lost:
            gc.collect()  # what nobody has any more is gone then
        for note in lost:
            _check_kept(note)

    def _look_for_hidden(self, value: Any, depth: int) -> None:
        """Refuse a marked function that is reachable only through another object."""
        if issubclass(type(value), ModuleType) or mark_of(value) is not None:
            return
        for inner in callables.kept_in(value) if depth else ():
            mark = mark_of(inner)
            if mark is None:
                self._look_for_hidden(inner, depth - 1)
            elif (
                mark.capability not in self.definitions
                and callables.module_of(inner) in self._modules
            ):
                raise callables.wrong(inner, mark.capability, _why_hidden(inner, value))

    def get(self, capability: str) -> TaskDefinition | None:
        """Return the handler of a capability."""
        return self.definitions.get(capability)

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self.definitions.values())

    def __len__(self) -> int:
        return len(self.definitions)


def _check_kept(note: Note) -> None:
    """Raise `ConfigurationError` for a marked object that can be no handler."""
    function = note.function()
    now = None if function is None else getattr(function, MARK, note.mark)
    if now is note.mark:
        return
    why = (
        "nothing in its module leads to it any more; is its name given twice, or does a "
        "decorator above its @task return nothing?"
        if now is None
        else f"it is marked again, as {now.capability!r}; mark another function, which calls it"
    )
    raise ConfigurationError(f"{note.place}: {note.mark.capability}: {why}")


def _why_hidden(function: Any, keeper: Any) -> str:
    if callables.is_method(function) or isinstance(keeper, type):
        return (
            "a method is no handler; mark a function of the module, "
            "or give the bound method a name there"
        )
    if not callable(keeper):
        kind = type(keeper).__name__
        return f"the {kind} above it, which only a class has a use for, hides its @task; drop that"
    name = getattr(keeper, "__qualname__", type(keeper).__name__)
    return f"{name} above it hides its @task; write @task above that, or give that functools.wraps"
