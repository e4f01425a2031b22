"""Keeping secrets from the user code and the children of a process that has read its settings."""

import os
import sys

from maniple.urls import without_password
from maniple_runtime.settings import PREFIX, ServiceSettings, flag_of

_SECRET_ENDS = ("_TOKEN", "_PASSWORD", "_SECRET")


def leave_no_secrets(settings: ServiceSettings) -> None:
    """Remove secrets from the environment, and set what is `handed_on` in it.

    Children inherit the environment, and user code reads it, in tracebacks too. Known weakness: the
    system shows the user of a process with what variables and arguments it was started, and code
    that runs in the process can find the settings themselves.
    """
    kind = type(settings)
    for name in [*os.environ]:
        if _is_secret(name, os.environ[name], kind):
            del os.environ[name]
    os.environ.update(settings.handed_on)
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if given & {flag_of(name) for name in _secret_fields(kind)}:
        del sys.argv[1:]


def _secret_fields(kind: type[ServiceSettings]) -> set[str]:
    return {name for name, field in kind.model_fields.items() if not field.repr}


def _is_secret(variable: str, value: str, kind: type[ServiceSettings]) -> bool:
    name = variable.upper()
    if not name.startswith(PREFIX):
        return False
    is_field = name.removeprefix(PREFIX).lower() in _secret_fields(kind)
    return is_field or name.endswith(_SECRET_ENDS) or without_password(value) != value
