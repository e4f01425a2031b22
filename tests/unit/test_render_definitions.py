"""What the one-shot service `users` of docker-compose.yml writes for the broker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maniple.errors import ConfigurationError
from maniple_cli.dev_cluster.definitions import Role
from maniple_cli.dev_cluster.render_definitions import passwords_of

VARIABLES = {f"MANIPLE_{role.upper()}_PASSWORD": f"{role}-secret" for role in Role}


def test_every_role_needs_its_password() -> None:
    assert passwords_of(VARIABLES)[Role.AGENT] == "agent-secret"
    with pytest.raises(ConfigurationError, match=r"not set: MANIPLE_AGENT_PASSWORD$"):
        passwords_of(VARIABLES | {"MANIPLE_AGENT_PASSWORD": ""})


def render(path: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maniple_cli.dev_cluster.render_definitions", str(path)],
        env=os.environ | {"MANIPLE_ENVIRONMENT": "staging"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_writes_hashes_for_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    assert render(path, VARIABLES).returncode == 0
    written = path.read_text()
    assert json.loads(written)["vhosts"] == [{"name": "staging"}]
    assert all(user["password_hash"] for user in json.loads(written)["users"])
    assert "secret" not in written


def test_the_program_names_what_is_missing(tmp_path: Path) -> None:
    ran = render(tmp_path / "definitions.json", {})
    assert (ran.returncode, ran.stderr.startswith("not set: MANIPLE_OUTSIDE_PASSWORD")) == (2, True)
