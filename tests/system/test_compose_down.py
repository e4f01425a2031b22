"""`make down`, whatever has become of the `.env` that `make up` made."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from needs import COMPOSE, ENGINE, PYTHON_IMAGE, image, need
from paths import ROOT
from system.compose import Stack
from system.docker import run

# As little as has all that Compose makes; like ours, it cannot be read without its variable.
SMALL = f"""
services:
  one: &one
    image: {PYTHON_IMAGE}
    command: [sleep, infinity]
    init: true
    environment: {{SECRET: "${{MANIPLE_OUTSIDE_PASSWORD:?is not set}}"}}
    volumes: ["kept:/kept"]
  two:
    <<: *one
    profiles: [views]
volumes:
  kept:
"""
FOR_SMALL = (ENGINE, COMPOSE, image(PYTHON_IMAGE))


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Containers of a project that ran with a `.env`."""
    need(*FOR_SMALL)
    made = Stack(tmp_path, tmp_path)
    made.env_file.write_text(f"COMPOSE_PROJECT_NAME={made.project}\nMANIPLE_OUTSIDE_PASSWORD=x\n")
    await compose(made, "--profile", "views", "up", "--detach")
    assert set(await made.left()) == {"container", "network", "volume"}
    yield made
    await compose(made, "--profile", "*", "down", "--volumes")


async def compose(stack: Stack, *arguments: str) -> None:
    file = stack.env_file.with_name("small.yml")
    file.write_text(SMALL)
    what = ("--file", str(file), "--project-name", stack.project)
    env = {"MANIPLE_OUTSIDE_PASSWORD": "x"}
    await run("docker", "compose", *what, *arguments, env=env)


async def test_without_an_env_file_everything_is_removed(stack: Stack) -> None:
    stack.env_file.unlink()
    await stack.down()
    assert await stack.left() == {}


async def test_what_is_left_of_a_cluster_that_has_stopped_is_removed(stack: Stack) -> None:
    await compose(stack, "--profile", "*", "down")
    assert set(await stack.left()) == {"volume"}
    stack.env_file.unlink()
    await stack.down()
    assert await stack.left() == {}


async def test_the_project_may_be_named_in_the_env_file_alone(stack: Stack) -> None:
    env = {"MANIPLE_ENV_FILE": str(stack.env_file), "COMPOSE_PROJECT_NAME": ""}
    await run("infra/docker/down", env=env, cwd=ROOT)
    assert await stack.left() == {}
