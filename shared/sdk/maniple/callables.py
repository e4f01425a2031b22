"""What a handler is, as found in its module: a function, or what decorators made of one.

Decorators, `functools.partial`, methods and objects with `__call__` are unwrapped from the outside
in. The outermost layer is what is called; the first layer with a readable signature says what
arguments it takes.
"""

import contextlib
import functools
import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    SimpleNamespace,
    UnionType,
)
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from maniple.errors import ConfigurationError
from maniple.task_context import TaskContext

MOST_LAYERS = 50
MOST_LISTED = 1000
_LISTS = (list, tuple, set, frozenset, deque)
_DICTS = (dict, defaultdict, OrderedDict)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_TAKES = "a handler takes (payload) or (payload, context)"


def layers(function: Any) -> Iterator[Any]:
    """Iterate over a callable and what it wraps (partial, `__call__`), outermost first."""
    layer = function
    for _ in range(MOST_LAYERS):  # what wraps itself has no end
        if layer is None:
            return
        yield layer
        layer = _inside(layer)


def _inside(layer: Any) -> Any:
    if isinstance(layer, functools.partial):
        return layer.func
    wrapped = getattr(layer, "__wrapped__", None)
    if callable(wrapped):
        # What a decorated method wraps wants the same object first.
        return MethodType(wrapped, layer.__self__) if isinstance(layer, MethodType) else wrapped
    if isinstance(layer, FunctionType | MethodType | BuiltinFunctionType | type):
        return None
    call = getattr(layer, "__call__", None)  # noqa: B004 - what is called, not whether it can be
    return call if isinstance(call, MethodType) else None


def body_of(layer: Any) -> FunctionType | None:
    """Return the Python function that runs when a layer is called; None if there is none."""
    if isinstance(layer, MethodType):
        layer = layer.__func__
    if not isinstance(layer, FunctionType | type | functools.partial):
        layer = inspect.getattr_static(type(layer), "__call__", None)
    return layer if isinstance(layer, FunctionType) else None


def _innermost(function: Any) -> FunctionType | None:
    body = None
    for layer in layers(function):
        body = body_of(layer) or body
    return body


def module_of(function: Any) -> str:
    """Return the module name of the innermost layer, empty if it has none."""
    body = _innermost(function)
    return body.__module__ or "" if body else ""


def place_of(function: Any) -> str:
    """Return file and line of the innermost layer, empty if it has none."""
    body = _innermost(function)
    return f"{body.__code__.co_filename}:{body.__code__.co_firstlineno}" if body else ""


def wrong(function: Any, capability: str, why: str) -> ConfigurationError:
    """Return a `ConfigurationError` about a handler, with its file and line."""
    place = place_of(function)
    return ConfigurationError(f"{place}: {capability}: {why}" if place else f"{capability}: {why}")


def is_async(function: Any) -> bool:
    """Tell whether calling it returns an awaitable, as far as that can be seen."""
    return any(inspect.iscoroutinefunction(body_of(layer)) for layer in layers(function))


def check(function: Any, capability: str) -> None:
    """Raise `ConfigurationError` for something that can be no handler, whatever its signature."""
    body = body_of(function)
    if isinstance(function, type):
        raise wrong(function, capability, "a class is no handler; mark a function that uses it")
    if not callable(function):
        raise wrong(
            function,
            capability,
            f"@task marks functions, not a {type(function).__name__}; put it right above the def, "
            "below what makes a property or the like of it",
        )
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise wrong(
            function,
            capability,
            "a generator is no JSON; return a list, or tell parts with context.progress(…)",
        )


def is_method(function: Any) -> bool:
    """Tell whether a function is defined in the body of a class, and so needs an instance first."""
    if not isinstance(function, FunctionType):
        return False
    scope = function.__qualname__.rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")


def takes_context(function: Any, capability: str) -> bool:
    """Tell whether a handler takes a context. Raises `ConfigurationError` for other signatures.

    A decorator that passes on any arguments (`*args`) takes what the wrapped function takes; what
    it passes as the second argument is its own affair.
    """
    outermost = _parameters(function, capability)
    needed = [p.name for p in outermost if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        raise wrong(
            function, capability, f"{_TAKES}; nothing gives it {needed[0]!r}: give that a default"
        )
    for layer in layers(function):
        parameters = _parameters(layer, capability)
        count = sum(p.kind in _POSITIONAL for p in parameters)
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            break
    if not count and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise wrong(
            function,
            capability,
            f"{_TAKES}; its decorator hides which: give that one functools.wraps",
        )
    if not 1 <= count <= 2:  # noqa: PLR2004 - payload, context
        raise wrong(function, capability, f"{_TAKES}, not {count} parameters")
    if layer is function and count > 1 and _is_data(parameters[1], function, capability):
        name = parameters[1].name
        why = (
            f"{_TAKES}, but its second parameter, {name!r}, is no context; take one payload of both"
        )
        raise wrong(function, capability, why)
    return count > 1


def payload_type(function: Any, capability: str) -> Any:
    """Return the annotation of the payload, `Any` without one.

    Only this annotation must be resolvable at run time, not the others of the function. Raises
    `ConfigurationError` if it cannot be resolved.
    """
    for layer in layers(function):
        first = next((p for p in _parameters(layer, capability) if p.kind in _POSITIONAL), None)
        if first is not None and first.annotation is not first.empty:
            found = _resolved(first.annotation, layer, function, capability)
            if any(_is_context(kind) for kind in _kinds(found)):
                why = f"{_TAKES}: the payload first, and {first.name!r} is a context"
                raise wrong(function, capability, why)
            return found
    return Any


def _is_data(parameter: inspect.Parameter, function: Any, capability: str) -> bool:
    """Tell whether a parameter can be no context, by its type or its default."""
    defaults = parameter.default is not parameter.empty and parameter.default is not None
    if parameter.annotation is parameter.empty:
        return defaults
    try:
        kinds = _kinds(_resolved(parameter.annotation, function, function, capability))
    except ConfigurationError:  # as of what is imported for a type checker only
        return defaults
    if any(_is_context(kind) for kind in kinds):
        return False
    return defaults or all(_excludes_contexts(kind) for kind in kinds)


def _kinds(annotation: Any) -> list[Any]:
    """Return the alternatives of a type, without None and what `Annotated` adds."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return [kind for part in parts if part is not type(None) for kind in _kinds(part)]
    return [annotation]


def _is_context(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, TaskContext)


def _excludes_contexts(kind: Any) -> bool:
    """Tell whether no `TaskContext` is of this type; not for `Any` or a protocol it may follow."""
    kind = get_origin(kind) or kind
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return False
    return kind not in TaskContext.__mro__


def _resolved(annotation: Any, layer: Any, function: Any, capability: str) -> Any:
    # `functools.wraps` copies annotations: they mean what they mean where the innermost stands.
    body = [body_of(inner) for inner in layers(layer)][-1]
    said: Any = SimpleNamespace(__annotations__={"payload": annotation})
    names = ({}, {}) if body is None else (body.__globals__, _cells(body))
    try:
        return get_type_hints(said, *names, include_extras=True)["payload"]
    except Exception as error:
        raise wrong(
            function,
            capability,
            f"the annotation of its payload, {annotation!r}, means nothing when it is loaded "
            f"({error}); import what it names outside `if TYPE_CHECKING:`, or mend its spelling",
        ) from error


def _cells(body: FunctionType) -> dict[str, Any]:
    """Return the values in a function's closure."""
    found: dict[str, Any] = {}
    for name, cell in zip(body.__code__.co_freevars, body.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # it has none yet
            found[name] = cell.cell_contents
    return found


def _parameters(layer: Any, capability: str) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(layer, follow_wrapped=False).parameters.values())
    except (ValueError, TypeError) as error:
        if _inside(layer) is not None:  # made in C, as by functools.cache: it passes on all it gets
            return [inspect.Parameter("passed_on", inspect.Parameter.VAR_POSITIONAL)]
        raise wrong(layer, capability, f"it cannot be told what it takes: {error}") from error


def kept_in(value: Any) -> Iterator[Any]:
    """Iterate over callables that an object keeps where they cannot be found by name.

    The result of a decorator without `functools.wraps` keeps them in its closure or its attributes,
    directly or in a list or the like; a property and the methods of a class count as well. The
    target of a proxy is left alone: it may not exist yet.
    """
    kept: list[Any] = []
    with contextlib.suppress(Exception):  # as it may raise whatever it likes
        kept = _kept_in(value, type(value))
    yield from filter(callable, kept)


def _kept_in(value: Any, kind: type) -> list[Any]:
    if issubclass(kind, FunctionType):
        kept = list(_cells(value).values())
    elif issubclass(kind, functools.partial):
        kept = [value.func, *value.args, *value.keywords.values()]
    elif callable(value):
        kept = [*getattr(value, "__dict__", {}).values(), *_slots(value, kind)]
    else:
        return list(_bound_by(value))  # a list of the module's is its own affair
    kept += [inner for one in kept for inner in _bound_by(one)]
    if not issubclass(kind, type):  # a class may keep what it likes in one, as a module may
        kept += [inner for one in kept for inner in _in_list(one)]
    return kept


def _slots(value: Any, kind: type) -> Iterator[Any]:
    """Iterate over the attributes that a class names in `__slots__`."""
    for base in kind.__mro__:
        if "__slots__" in vars(base):
            for member in vars(base).values():
                if isinstance(member, MemberDescriptorType):
                    with contextlib.suppress(AttributeError):  # it has none yet
                        yield member.__get__(value, kind)


def _bound_by(value: Any) -> Iterator[Any]:
    """Iterate over what is behind a class attribute that is not a plain function."""
    kind = type(value)
    if issubclass(kind, property):
        yield from (value.fget, value.fset, value.fdel)
    elif issubclass(kind, staticmethod | classmethod):
        yield value.__func__
    elif issubclass(kind, functools.cached_property):
        yield value.func


def _in_list(value: Any) -> Iterator[Any]:
    kind = type(value)
    if kind in _LISTS:
        yield from islice(value, MOST_LISTED)
    elif kind in _DICTS:
        yield from islice(value.values(), MOST_LISTED)
