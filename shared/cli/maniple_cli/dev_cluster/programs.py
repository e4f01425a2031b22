"""Finding the servers' programs on this machine."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from maniple_cli.dev_cluster.errors import ServerMissing

BREW = (Path("/opt/homebrew"), Path("/usr/local"), Path("/home/linuxbrew/.linuxbrew"))
# Debian's /usr/sbin/rabbitmq-server is a wrapper that changes the user.
WRAPPERS = {"rabbitmq-script-wrapper"}
HOW = (
    "run infra/local/install, or set MANIPLE_BROKER_URL and MANIPLE_CONSUL_URL to use servers "
    "that are already running"
)


def _first(candidates: Iterable[Path]) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


def rabbitmq_server() -> Path:
    """Return RabbitMQ's own start script; raises `ServerMissing`."""
    folders = [Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin")]
    folders += [prefix / "opt/rabbitmq/sbin" for prefix in BREW]
    found = _first(folder / "rabbitmq-server" for folder in folders)
    if found:
        return found
    on_path = shutil.which("rabbitmq-server")
    if on_path and Path(on_path).resolve().name not in WRAPPERS:
        return Path(on_path)
    raise ServerMissing(f"RabbitMQ is not installed: {HOW}")


def epmd() -> Path:
    """Return Erlang's port mapper, which RabbitMQ needs; raises `ServerMissing`."""
    on_path = shutil.which("epmd")
    if on_path:
        return Path(on_path)
    roots = [Path("/usr/lib/erlang"), *(prefix / "opt/erlang/lib/erlang" for prefix in BREW)]
    found = _first(path for root in roots for path in sorted(root.glob("erts-*/bin/epmd")))
    if found:
        return found
    raise ServerMissing(f"Erlang's epmd is not installed: {HOW}")


def consul() -> Path:
    """Return the Consul binary; raises `ServerMissing`."""
    on_path = shutil.which("consul")
    if on_path:
        return Path(on_path)
    folders = [*(prefix / "bin" for prefix in BREW), Path.home() / ".local/bin"]
    found = _first(folder / "consul" for folder in folders)
    if found:
        return found
    raise ServerMissing(f"Consul is not installed: {HOW}")
