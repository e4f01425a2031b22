"""The broker's definitions as a file and as rendered for one environment."""

import base64
import hashlib
import json
import re

import pytest

from maniple_cli.dev_cluster.definitions import (
    Role,
    definitions_file,
    new_passwords,
    password_hash,
    rendered,
)


def test_the_file_holds_every_role_and_no_password() -> None:
    definitions = json.loads(definitions_file().read_text())
    assert {user["name"] for user in definitions["users"]} == set(Role)
    assert {grant["user"] for grant in definitions["permissions"]} == set(Role)
    assert {user["password_hash"] for user in definitions["users"]} == {""}
    assert "password" not in {key for user in definitions["users"] for key in user}


def test_rendering_names_the_vhost_everywhere() -> None:
    definitions = rendered("staging", {})
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["staging"]
    for kind in ("permissions", "parameters", "policies"):
        assert {one["vhost"] for one in definitions[kind]} == {"staging"}


def test_each_user_gets_the_hash_of_its_own_password() -> None:
    passwords = new_passwords()
    assert len(set(passwords.values())) == len(Role)
    for user in rendered("dev", passwords)["users"]:
        raw = base64.b64decode(user["password_hash"])
        wanted = hashlib.sha256(raw[:4] + passwords[Role(user["name"])].encode()).digest()
        assert raw[4:] == wanted


def test_a_user_without_password_cannot_log_in() -> None:
    users = rendered("dev", {Role.AGENT: "secret"})["users"]
    assert [user["name"] for user in users if user["password_hash"]] == ["agent"]


def test_the_hash_is_the_one_that_rabbitmq_documents() -> None:
    salt = bytes.fromhex("908DC60A")
    assert password_hash("test12", salt) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


@pytest.mark.parametrize(
    ("role", "right", "name", "allowed"),
    [
        ("outside", "write", "maniple.tasks", True),
        ("outside", "write", "maniple.tasks2", False),
        ("outside", "write", "amq.default", False),
        ("outside", "configure", "maniple", True),
        ("outside", "configure", "maniple.x", False),
        ("outside", "configure", "amq.gen-x", True),
        ("outside", "read", "amq.topic", False),
        ("client", "write", "maniple.replies.c1", True),
        ("client", "write", "maniple.replies", False),
        ("agent", "write", "amq.default", True),
    ],
)
def test_patterns_mean(role: str, right: str, name: str, *, allowed: bool) -> None:
    grants = json.loads(definitions_file().read_text())["permissions"]
    pattern = next(grant[right] for grant in grants if grant["user"] == role)
    assert bool(re.search(pattern, name)) is allowed
