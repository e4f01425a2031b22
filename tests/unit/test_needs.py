"""What tests say they need; a `docker` that has only what it is given stands in for Docker."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import needs
from needs import COMPOSE, CONSUL, ENGINE, PROMETHEUS, PROMTOOL, RABBITMQ, Need, image, need
from paths import ROOT
from system.compose import FOR_FILE, FOR_STACK
from system.docker import FOR_CONTAINER, IMAGE
from system.test_compose_down import FOR_SMALL

# Answers the questions whose beginnings its file holds, a line each.
DOCKER = """#!/bin/sh
while read -r known; do case "$*" in "$known"*) exit 0 ;; esac; done <'{}'
echo "docker: $*: no" >&2
exit 1
"""
PLUGIN, SERVER, IMAGES = "compose", "version", "image inspect"
Docker = Callable[..., None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Puts a `docker` on a PATH that has nothing else but the shell's."""

    def install(*known: str) -> None:
        program, answers = tmp_path / "docker", tmp_path / "answers"
        answers.write_text("".join(f"{one}\n" for one in known))
        program.write_text(DOCKER.format(answers))
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def skipped(*wanted: Need) -> str:
    """Why a test that needs this is skipped; "" if it runs."""
    try:
        need(*wanted)
    except pytest.skip.Exception as reason:
        return str(reason)
    return ""


@pytest.fixture(params=["true", None], ids=["in CI", "elsewhere"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    if request.param:
        monkeypatch.setenv("CI", request.param)


@pytest.mark.usefixtures("anywhere", "docker")
def test_without_docker_nothing_of_it_runs_in_ci_neither() -> None:
    for wanted in (FOR_FILE, FOR_STACK, FOR_CONTAINER, FOR_SMALL, (ENGINE,), (COMPOSE,)):
        assert "docker is not installed: https" in skipped(*wanted)


@pytest.mark.usefixtures("anywhere")
def test_the_client_alone_is_neither_an_engine_nor_compose(docker: Docker) -> None:
    docker()
    assert "no Compose plugin" in skipped(*FOR_FILE)
    for wanted in (FOR_STACK, FOR_CONTAINER, FOR_SMALL):
        assert "no Docker engine" in skipped(*wanted)


def test_the_file_can_be_read_without_an_engine(docker: Docker) -> None:
    docker(PLUGIN)
    assert skipped(*FOR_FILE) == ""
    for wanted in (FOR_STACK, FOR_CONTAINER, FOR_SMALL):
        assert "no Docker engine" in skipped(*wanted)


def test_an_engine_without_compose_starts_containers(docker: Docker) -> None:
    docker(SERVER, IMAGES)
    assert skipped(*FOR_CONTAINER) == ""
    for wanted in (FOR_FILE, FOR_STACK, FOR_SMALL):
        assert "no Compose plugin" in skipped(*wanted)


@pytest.mark.usefixtures("anywhere")
def test_each_needs_its_own_images_and_says_how_to_get_them(docker: Docker) -> None:
    docker(PLUGIN, SERVER, f"{IMAGES} python:3.13-slim")
    assert skipped(*FOR_SMALL) == ""
    assert f"docker pull {IMAGE}" in skipped(*FOR_CONTAINER)
    assert "docker pull " in skipped(*FOR_STACK)
    docker(PLUGIN, SERVER, f"{IMAGES} {IMAGE}")
    assert skipped(*FOR_CONTAINER) == ""
    assert "docker pull python:3.13-slim" in skipped(*FOR_SMALL)


def test_with_everything_all_of_it_runs(docker: Docker) -> None:
    docker(PLUGIN, SERVER, IMAGES)
    assert [skipped(*one) for one in (FOR_FILE, FOR_STACK, FOR_CONTAINER, FOR_SMALL)] == [""] * 4


def test_what_our_images_are_built_from_is_what_is_looked_for() -> None:
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert f"FROM {needs.PYTHON_IMAGE}\n" in dockerfile.replace(" AS ", "\n")


def lost() -> str | None:
    return "it is not installed: run infra/local/install"


def test_a_server_that_is_missing_skips_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Need(lost, expected=True)
    monkeypatch.delenv("CI", raising=False)
    assert skipped(server) == lost()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="run infra/local/install"):
        need(image("x"), server)  # whatever else is missing


@pytest.mark.parametrize(
    ("server", "program"),
    [(CONSUL, "consul"), (PROMETHEUS, "prometheus"), (PROMTOOL, "promtool"), (RABBITMQ, "epmd")],
)
def test_a_server_is_looked_for_where_it_is_started_from(
    server: Need, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: path.name != program and is_file(path))
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    reason = server.missing()
    assert reason is not None
    assert program in reason.lower()
    assert "run infra/local/install" in reason
