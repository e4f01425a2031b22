"""A certification authority of a test's own, and servers that speak TLS by it."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET6, has_ipv6

from needs import OPENSSL, need

HOSTS = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
LIFE = ("-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Certificate:
    """Files in PEM."""

    cert: Path
    key: Path


class Authority:
    """Makes certificates for this machine; `cacert` is what trusts them."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        need(OPENSSL)
        self._folder = folder
        self.cacert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.cacert)
        _openssl("req", "-x509", *LIFE, *subject)

    def certificate(self, name: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, hosts = self._folder / f"{name}.csr", self._folder / f"{name}.cnf"
        hosts.write_text(HOSTS)
        _openssl("req", *LIFE[2:], "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        signed = ("-CA", self.cacert, "-CAkey", self._key, "-CAcreateserial", "-extfile", hosts)
        _openssl("x509", "-req", "-days", "2", "-in", request, *signed, "-out", made.cert)
        return made

    def lock(self, key: Path) -> Path:
        """Return a copy of a key that has a password."""
        locked = key.with_suffix(".locked")
        _openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
        return locked


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


class _IPv6Server(_Server):
    address_family = AF_INET6


@contextmanager
def http_server(
    handler: type[http.server.BaseHTTPRequestHandler],
    *,
    host: str = "127.0.0.1",
    certificate: Certificate | None = None,
    clients: Path | None = None,
) -> Iterator[str]:
    """Serve over TLS with a certificate, and give the URL; `clients` signs client certificates."""
    kind = _IPv6Server if ":" in host and has_ipv6 else _Server
    with kind((host, 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.cert, certificate.key)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        shown = f"[{host}]" if ":" in host else host
        yield f"http{'s' if certificate else ''}://{shown}:{server.server_address[1]}"
        server.shutdown()
