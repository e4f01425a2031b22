"""The broker's users and permissions, rendered for one environment with passwords of its own."""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

OF_VHOST = ("permissions", "parameters", "policies")
SALT_BYTES = 4
PASSWORD_BYTES = 18


class Role(StrEnum):
    """The RabbitMQ users, one for each role."""

    OUTSIDE = "outside"
    CLIENT = "client"
    OPERATOR = "operator"
    REGISTRY = "registry"
    DISPATCHER = "dispatcher"
    LEDGER = "ledger"
    POLICY = "policy"
    AGENT = "agent"


def definitions_file() -> Path:
    """Path of definitions.json, to which infra/rabbitmq/ has a link in the checkout."""
    return Path(__file__).with_name("definitions.json")


def new_passwords() -> dict[Role, str]:
    """Make a random password for each role."""
    return {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in Role}


def password_hash(password: str, salt: bytes) -> str:
    """Hash as RabbitMQ does: base64 of the 4-byte salt and SHA-256 of salt and password."""
    digest = hashlib.sha256(salt + password.encode()).digest()
    return base64.b64encode(salt + digest).decode()


def render(
    definitions: Mapping[str, Any], *, environment: str, passwords: Mapping[Role, str]
) -> dict[str, Any]:
    """Return the definitions for the vhost `environment`, each user with the hash of its password.

    A user without a password keeps its empty hash, with which nobody can log in.
    """
    users = [
        {**user, "password_hash": password_hash(password, secrets.token_bytes(SALT_BYTES))}
        if (password := passwords.get(Role(user["name"])))
        else user
        for user in definitions["users"]
    ]
    return {
        **definitions,
        "vhosts": [{**vhost, "name": environment} for vhost in definitions["vhosts"]],
        "users": users,
        **{
            kind: [{**one, "vhost": environment} for one in definitions.get(kind, ())]
            for kind in OF_VHOST
        },
    }


def rendered(environment: str, passwords: Mapping[Role, str]) -> dict[str, Any]:
    """Render this distribution's own definitions."""
    return render(
        json.loads(definitions_file().read_text()), environment=environment, passwords=passwords
    )
