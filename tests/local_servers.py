"""What tests do where the real servers are not installed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from maniple.local.errors import ServerMissing


def skip_or_fail(reason: str) -> NoReturn:
    """Skip on a developer's machine; a CI run without servers would test nothing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def servers_needed() -> Iterator[None]:
    """Skip, or fail, where the block finds that a server is not installed."""
    try:
        yield
    except ServerMissing as missing:
        skip_or_fail(str(missing))
