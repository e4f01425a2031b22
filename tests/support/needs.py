"""What a test needs of this machine: what of it is missing, and how to get that.

What `make setup` installs skips where it is missing, and fails in CI, which would else test
nothing. Docker is no part of it: without an engine, the Compose plugin or an image a test skips in
CI too. A test names all that it uses, and nothing else.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from local_servers import skip_or_fail
from maniple.local import programs
from maniple.local.errors import ServerMissing
from prometheus_server import program

ENGINE_SECONDS = 10.0
PYTHON_IMAGE = "python:3.13-slim"  # which ours are built from


@dataclass(frozen=True)
class Need:
    """`missing` says what is not here and how to get it; `from_setup`: `make setup` does."""

    missing: Callable[[], str | None]
    from_setup: bool


def _server(*find: Callable[[], object]) -> Need:
    def missing() -> str | None:
        try:
            for one in find:
                one()
        except ServerMissing as error:
            return str(error)
        return None

    return Need(missing, from_setup=True)


def _docker(reason: str, *question: str) -> Need:
    """Return what is there if a `docker` answers a question."""

    def missing() -> str | None:
        if shutil.which("docker") is None:
            return "docker is not installed: https://docs.docker.com/engine/install"
        try:
            subprocess.run(
                ("docker", *question), check=True, capture_output=True, timeout=ENGINE_SECONDS
            )
        except (subprocess.SubprocessError, OSError):
            return reason
        return None

    return Need(missing, from_setup=False)


def image(name: str) -> Need:
    """Return the need of an image."""
    return _docker(f"an image is not here: docker pull {name}", "image", "inspect", name)


RABBITMQ = _server(programs.rabbitmq_server, programs.epmd)
CONSUL = _server(programs.consul)
PROMETHEUS = _server(lambda: program("prometheus"))
PROMTOOL = _server(lambda: program("promtool"))
ENGINE = _docker("no Docker engine answers: start one, or set DOCKER_HOST", "version")
COMPOSE = _docker(
    "Docker has no Compose plugin: https://docs.docker.com/compose/install", "compose", "version"
)
"""With which a file can be read; to start anything from it takes an `ENGINE` too."""


def first_missing(*needs: Need) -> str | None:
    """Say what is missing of these, the first of it; None if nothing is."""
    for one in needs:
        if reason := one.missing():
            return reason
    return None


def need(*needs: Need) -> None:
    """Skip, or fail in CI what `make setup` should have made possible, where one is missing."""
    __tracebackhide__ = True  # a report names the test that needs it
    from_setup = [one for one in needs if one.from_setup]
    if reason := first_missing(*from_setup):
        skip_or_fail(reason)
    if reason := first_missing(*needs):
        pytest.skip(reason)
