"""What a test needs of this machine: what is missing, and how to get it.

A test skips where a server is missing that `make setup` installs, and fails in CI, which would
otherwise test nothing. Docker is no part of it: without an engine, the Compose plugin or an image a
test skips in CI too. A test names all that it uses, and nothing else.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from maniple_agent.executors.cgroups import MEMBERSHIP, ROOT, NotDelegated, delegated
from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.errors import ServerMissing
from prometheus_server import program

ENGINE_SECONDS = 10.0
PYTHON_IMAGE = "python:3.13-slim"  # which ours are built from


@dataclass(frozen=True)
class Need:
    """`missing` says what is not here and how to get it; `expected`: in CI it has to be here."""

    missing: Callable[[], str | None]
    expected: bool


def _server(*find: Callable[[], object]) -> Need:
    def missing() -> str | None:
        try:
            for one in find:
                one()
        except ServerMissing as error:
            return str(error)
        return None

    return Need(missing, expected=True)


def _docker(reason: str, *question: str) -> Need:
    """Return a need that is met if a `docker` answers a request."""

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

    return Need(missing, expected=False)


def _seen(found: Callable[[], object], reason: str, *, expected: bool) -> Need:
    return Need(lambda: None if found() else reason, expected)


def _has_cgroup() -> bool:
    try:
        delegated(ROOT, MEMBERSHIP.read_text(encoding="utf-8"))
    except (NotDelegated, OSError):
        return False
    return True


def image(name: str) -> Need:
    """Return the need of an image."""
    return _docker(f"an image is not here: docker pull {name}", "image", "inspect", name)


RABBITMQ = _server(programs.rabbitmq_server, programs.epmd)
CONSUL = _server(programs.consul)
PROMETHEUS = _server(lambda: program("prometheus"))
PROMTOOL = _server(lambda: program("promtool"))
OPENSSL = _seen(
    lambda: shutil.which("openssl"),
    "openssl is not installed: apt-get install openssl",
    expected=True,
)
PS = _seen(lambda: shutil.which("ps"), "ps is not installed: apt-get install procps", expected=True)
PROC = _seen(Path("/proc/self").exists, "there is no /proc, as Linux has it", expected=False)
CGROUP = _seen(
    _has_cgroup,
    "no cgroup was delegated to this: systemd-run --scope -p Delegate=yes",
    expected=False,
)
ENGINE = _docker("no Docker engine answers: start one, or set DOCKER_HOST", "version")
COMPOSE = _docker(
    "Docker has no Compose plugin: https://docs.docker.com/compose/install", "compose", "version"
)
"""With which a file can be read; to start anything from it takes an `ENGINE` too."""


def skip_or_fail(reason: str) -> NoReturn:
    """Skip on a developer's machine; a CI run without servers would test nothing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def first_missing(*needs: Need) -> str | None:
    """Return the first of these needs that is not met; None if all are."""
    for one in needs:
        if reason := one.missing():
            return reason
    return None


def need(*needs: Need) -> None:
    """Skip where one is missing, or fail in CI if it is expected there."""
    __tracebackhide__ = True  # a report names the test that needs it
    expected = [one for one in needs if one.expected]
    if reason := first_missing(*expected):
        skip_or_fail(reason)
    if reason := first_missing(*needs):
        pytest.skip(reason)
