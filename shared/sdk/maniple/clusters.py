"""Finding the cluster that is meant when nobody says which."""

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
"""Set where handlers run, by an agent that has no login of a client for them."""
RUN_FILE = "dev.json"


@dataclass(frozen=True)
class KnownCluster:
    """What `maniple dev` tells of the cluster that it runs: its ready file.

    `broker_url` is an outside user's, `client_url` the SDK's, `operator_url` the command line's.
    """

    broker_url: str
    operator_url: str
    client_url: str
    consul_url: str
    management_url: str = ""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "KnownCluster":
        """Read a ready file. Raises `KeyError` for one without its URLs."""
        operator = str(document["operator_url"])
        return cls(
            broker_url=str(document["broker_url"]),
            operator_url=operator,
            client_url=str(document.get("client_url") or operator),
            consul_url=str(document["consul_url"]),
            management_url=str(document.get("management_url") or ""),
        )


def run_file() -> Path:
    """Return where `maniple dev` says that it runs: one file per user of this machine.

    `$XDG_RUNTIME_DIR/maniple-<uid>/dev.json`, or the same below the temporary directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"maniple-{os.getuid()}" / RUN_FILE


def forget_run() -> None:
    """Take back what this process wrote to the run file; another's stays."""
    path = run_file()
    try:
        if json.loads(path.read_text()).get("pid") == os.getpid():
            path.unlink()
    except (OSError, ValueError, AttributeError):
        return


def find_cluster() -> KnownCluster | None:
    """Return the cluster that this user's `maniple dev` runs, None if there is none.

    A file that somebody else owns, that cannot be read, or whose `pid` has ended does not count.
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

    Handlers never get the local cluster's: their agent may be of another one.
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
