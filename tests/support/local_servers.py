"""What tests do where the real servers are not installed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import pytest

from maniple.local.consul import ConsulServer
from maniple.local.errors import ServerMissing
from maniple.local.rabbitmq import RabbitMQServer


@dataclass(frozen=True)
class LocalServers:
    """A RabbitMQ and a Consul of this test session's own."""

    rabbitmq: RabbitMQServer
    consul: ConsulServer


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
