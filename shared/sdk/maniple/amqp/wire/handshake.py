"""What is said before a connection is open: who we are, what we can, how much at a time."""

import asyncio
import platform
import ssl
from base64 import b64decode
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pamqp import commands
from yarl import URL

from maniple.amqp.wire.amqp_errors import ConnectionLost
from maniple.amqp.wire.framing import LEAST_FRAME_MAX
from maniple.errors import ConfigurationError
from maniple.urls import DEFAULT_PORTS

MOST_CHANNELS = 65_535  # of the protocol
FRAME_MAX = 131_072  # what we ask for where the broker sets no limit
DEFAULT_HEARTBEAT = 60
CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and as whom it is met there; `address_of` reads it from a URL."""

    host: str
    port: int
    vhost: str
    user: str | None
    password: str
    name: str | None
    heartbeat: int
    is_secure: bool
    tls: dict[str, str]

    @property
    def has_certificate(self) -> bool:
        """Whether we show a certificate, which may say who we are (SASL EXTERNAL)."""
        return "certfile" in self.tls


def address_of(url: str) -> Address:
    """Return what a broker's URL says; `maniple.urls` tells its parameters."""
    parts = URL(url)
    query = parts.query
    return Address(
        host=parts.host or "",
        port=parts.port or DEFAULT_PORTS[parts.scheme],
        # yarl leaves an encoded slash as it is.
        vhost=parts.path[1:].replace("%2F", "/") or "/",
        user=parts.user,
        password=parts.password if parts.password is not None else "guest",
        name=query.get("name"),
        heartbeat=int(query.get("heartbeat", DEFAULT_HEARTBEAT)),
        is_secure=parts.scheme == "amqps",
        tls={**query},
    )


async def tls_context(address: Address) -> ssl.SSLContext | None:
    """Return how TLS is spoken there; None for plain connections.

    Raises `ConfigurationError` for a file that cannot be used. It reads files, in a thread.
    """
    if not address.is_secure:
        return None
    try:
        return await asyncio.to_thread(_context, address.tls)
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            "a file of TLS that the broker's URL names (cafile, capath, cadata, certfile, keyfile) "
            f"cannot be used: {said.replace('_', ' ').lower()}"
        ) from error


def _context(tls: dict[str, str]) -> ssl.SSLContext:
    data = tls.get("cadata")
    context = ssl.create_default_context(
        cafile=tls.get("cafile"),
        capath=tls.get("capath"),
        cadata=b64decode(data) if data else None,
    )
    if "certfile" in tls:
        context.load_cert_chain(tls["certfile"], tls.get("keyfile"))
    if tls.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def start_ok(address: Address, start: commands.Connection.Start) -> commands.Connection.StartOk:
    """Return our answer to the broker's greeting. Raises `ConnectionLost` without a way to log in.

    A URL that names no user, but a certificate, logs in by that, if the broker allows it.
    """
    offered = str(start.mechanisms or "").split()
    if address.user is None and address.has_certificate and "EXTERNAL" in offered:
        mechanism, response = "EXTERNAL", ""
    elif "PLAIN" in offered:
        user = "guest" if address.user is None else address.user
        mechanism, response = "PLAIN", f"\0{user}\0{address.password}"
    else:
        raise ConnectionLost(f"the broker lets nobody in by a password: it offers {offered}")
    properties: dict[str, Any] = {
        "product": "maniple",
        "version": version("maniple"),
        "platform": f"{platform.python_implementation()} {platform.python_version()}",
        "capabilities": CAPABILITIES,
    }
    if address.name:
        properties["connection_name"] = address.name
    return commands.Connection.StartOk(
        client_properties=properties, mechanism=mechanism, response=response
    )


def tune_ok(address: Address, tune: commands.Connection.Tune) -> commands.Connection.TuneOk:
    """Return what we agree to: as much as the broker allows, and our own heartbeat."""
    return commands.Connection.TuneOk(
        channel_max=tune.channel_max or MOST_CHANNELS,
        frame_max=max(LEAST_FRAME_MAX, min(tune.frame_max or FRAME_MAX, FRAME_MAX)),
        heartbeat=address.heartbeat,
    )
