"""Which cluster `make down` removes; a `docker` that only notes what it is told stands in."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paths import ROOT

NOTES = "#!/bin/sh\necho \"$@\" >>'{}'\n"
Down = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


@pytest.fixture
def down(tmp_path: Path, told: Path) -> Down:
    """Runs the script of a copy of this repository that holds nothing else."""
    docker = tmp_path / "bin" / "docker"
    script = tmp_path / "repository" / "infra" / "docker" / "down"
    for file, text in (
        (docker, NOTES.format(told)),
        (script, (ROOT / "infra/docker/down").read_text()),
    ):
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        env |= {"PATH": f"{docker.parent}:/usr/bin:/bin"}
        return subprocess.run([script], env=env, capture_output=True, text=True, check=False)

    return run


def removed(told: Path) -> list[str]:
    """The projects that were taken down."""
    words = [line.split() for line in told.read_text().splitlines() if "down" in line]
    return [line[line.index("--project-name") + 1] for line in words]


@pytest.mark.parametrize("project", [{}, {"COMPOSE_PROJECT_NAME": ""}])
def test_an_env_file_that_is_not_there_removes_no_other_cluster(
    down: Down, told: Path, project: dict[str, str]
) -> None:
    done = down(MANIPLE_ENV_FILE="misspelt.env", **project)
    assert done.returncode == 1
    assert "MANIPLE_ENV_FILE misspelt.env" in done.stderr
    assert "COMPOSE_PROJECT_NAME" in done.stderr
    assert not told.exists()


def test_who_is_named_is_removed_without_any_file(down: Down, told: Path) -> None:
    assert down(MANIPLE_ENV_FILE="misspelt.env", COMPOSE_PROJECT_NAME="mine").returncode == 0
    assert removed(told) == ["mine"]


def test_without_the_usual_env_file_the_usual_cluster_is_removed(down: Down, told: Path) -> None:
    assert down().returncode == 0
    assert removed(told) == ["maniple"]


def test_the_name_may_stand_in_the_file(down: Down, told: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.env"
    file.write_text("COMPOSE_PROJECT_NAME=other\n")
    assert down(MANIPLE_ENV_FILE=str(file)).returncode == 0
    assert removed(told) == ["other"]
