"""Finding the cluster to use when no URL is given."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maniple.errors import ConfigurationError

BROKER_VARIABLE = "MANIPLE_BROKER_URL"
NO_CLIENT_VARIABLE = "MANIPLE_NO_CLIENT"
"""Set where handlers run, by an agent that has no client login for them."""
RUN_FILE = "dev.json"


@dataclass(frozen=True)
class KnownCluster:
    """URLs of the cluster that `maniple dev` runs, with passwords: its run file.

    `broker_url` is for outside users, `client_url` for the SDK, `operator_url` for the command
    line.
    """

    broker_url: str
    operator_url: str
    client_url: str
    consul_url: str
    management_url: str = ""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "KnownCluster":
        """Read a decoded run file. Raises `KeyError` if a URL is missing."""
        operator = str(document["operator_url"])
        return cls(
            broker_url=str(document["broker_url"]),
            operator_url=operator,
            client_url=str(document.get("client_url") or operator),
            consul_url=str(document["consul_url"]),
            management_url=str(document.get("management_url") or ""),
        )


def run_file() -> Path:
    """Return the path of the file that `maniple dev` keeps while it runs: one per user and machine.

    `$XDG_RUNTIME_DIR/maniple-<uid>/dev.json`, or the same below the temporary directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"maniple-{os.getuid()}" / RUN_FILE


def forget_run() -> None:
    """Remove the run file if this process wrote it; another process's file stays."""
    path = run_file()
    try:
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()
    except (OSError, ValueError, AttributeError):
        return


def find_cluster() -> KnownCluster | None:
    """Return the cluster that this user's `maniple dev` runs, None if there is none.

    A file is ignored that somebody else owns, that cannot be read, or whose `pid` has ended.
    """
    path = run_file()
    try:
        if path.stat().st_uid != os.getuid():
            return None
        document = json.loads(path.read_text())
        if (pid := document.get("pid")) is not None:
            os.kill(int(pid), 0)
        return KnownCluster.from_document(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def default_broker_url() -> str:
    """Return MANIPLE_BROKER_URL, else the local cluster's. Raises `ConfigurationError`.

    In a handler the local cluster is never used: its agent may belong to another one.
    """
    if url := os.environ.get(BROKER_VARIABLE):
        return url
    if os.environ.get(NO_CLIENT_VARIABLE):
        raise ConfigurationError(
            "no broker for this handler: set MANIPLE_CLIENT_URL on the agent "
            "(amqp://client:password@host:5672/vhost), or pass a URL"
        )
    if cluster := find_cluster():
        return cluster.client_url
    raise ConfigurationError(
        f"no broker: pass a URL, set {BROKER_VARIABLE} (amqp://user:password@host:5672/vhost), or "
        "start a local cluster with 'maniple dev'"
    )
