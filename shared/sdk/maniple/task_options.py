"""Checks of the options of `@task`: a wrong option must not break a promise silently.

Annotations are not checked at run time, so a misspelt option would otherwise mean the default.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from maniple.errors import ConfigurationError, ErrorCode
from maniple.messages import RetryPlan


def check_options(capability: str, options: Mapping[str, Any]) -> None:
    """Raise a `ConfigurationError` that names an option that is unknown or of a wrong type.

    None stands for an option that is not given.
    """
    if unknown := sorted(options.keys() - _CHECKS.keys()):
        known = ", ".join(sorted(_CHECKS))
        raise ConfigurationError(f"{capability}: no option {unknown[0]!r}; there are {known}")
    for name, value in options.items():
        wanted, fits = _CHECKS[name]
        if value is not None and not fits(value):
            raise ConfigurationError(f"{capability}: {name} must be {wanted}, not {value!r}")
    if (plan := options.get("retry")) is not None:
        _check_plan(capability, plan)


def _check_plan(capability: str, plan: RetryPlan) -> None:
    for name in ("base", "factor", "cap"):
        if not _is_seconds(value := getattr(plan, name)):
            raise ConfigurationError(
                f"{capability}: retry.{name} must be a number that is not below 0, not {value!r}"
            )
    codes: Any = plan.codes
    if not isinstance(codes, tuple | list) or not all(_is_code(code) for code in codes):
        raise ConfigurationError(
            f"{capability}: retry.codes must be a tuple of error codes, not {codes!r}"
        )


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and value in {code.value for code in ErrorCode}


def _is_seconds(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # an integer beyond every float
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _one_of(*values: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(map(repr, values)), lambda value: isinstance(value, str) and value in values


_BOOLEAN = ("True or False", lambda value: isinstance(value, bool))
_COUNT = ("a whole number above 0", _is_count)
_CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "timeout": ("a number above 0", lambda value: _is_seconds(value) and value > 0),
    "max_attempts": _COUNT,
    "retry": ("a RetryPlan", lambda value: isinstance(value, RetryPlan)),
    "executor": _one_of("async", "thread", "process"),
    "on_lost": _one_of("retry", "fail"),
    "memory": _COUNT,
    "exclusive": _BOOLEAN,
    "affinity": _BOOLEAN,
}
