"""TLS for a server's HTTP API: which authorities are trusted, and which certificate is shown."""

import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import requests

PREFIX = "MANIPLE_"
PARTS = ("cacert", "cert", "key")

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: authorities in place of the well-known ones, our certificate, its key.

    The certificate's file may contain the key.
    """

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def of_environment(cls, server: str, environ: Mapping[str, str] | None = None) -> "Tls":
        """Read `MANIPLE_<SERVER>_CACERT`, `…_CERT` and `…_KEY`; an empty one counts as unset.

        Raises `ValueError` as `check` does.
        """
        found = os.environ if environ is None else environ
        paths = (found.get(variable(server, part)) for part in PARTS)
        tls = cls(*(Path(path) if path else None for path in paths))
        tls.check(server)
        return tls

    def __bool__(self) -> bool:
        return self != Tls()

    def check(self, server: str) -> None:
        """Raise `ValueError`, which names the variable, for files that cannot be used."""
        if self.key is not None and self.cert is None:
            raise ValueError(f"{variable(server, 'key')}: there is no {variable(server, 'cert')}")
        context = ssl.create_default_context()
        if self.cacert is not None:
            try:
                context.load_verify_locations(self.cacert)
            except OSError as error:
                raise ValueError(_unusable(variable(server, "cacert"), error)) from error
        if self.cert is not None:
            try:
                # A key with a password would have it asked for at the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
            except OSError as error:
                names = variable(server, "cert")
                if self.key is not None:
                    names += f", {variable(server, 'key')}"
                raise ValueError(_unusable(names, error)) from error

    @property
    def verify(self) -> str | bool:
        """The value for `verify` of `requests`."""
        return True if self.cacert is None else str(self.cacert)

    @property
    def client(self) -> str | tuple[str, str] | None:
        """The value for `cert` of `requests`."""
        if self.cert is None:
            return None
        return str(self.cert) if self.key is None else (str(self.cert), str(self.key))

    def session(self, session: requests.Session | None = None) -> requests.Session:
        """Return this session, or a new one, that ignores the environment's proxies."""
        session = session or requests.Session()
        session.trust_env = False
        session.verify, session.cert = self.verify, self.client
        return session


def variable(server: str, part: str) -> str:
    """Return the name of the variable for a part of a server's TLS settings."""
    return f"{PREFIX}{server.upper()}_{part.upper()}"


def reason_of(error: requests.RequestException) -> str:
    """Return a sentence about why there is no answer."""
    if (refused := _within(error, ssl.SSLCertVerificationError)) is not None:
        return f"TLS: its certificate is not trusted: {refused.verify_message}"
    if (failed := _within(error, ssl.SSLError)) is not None:
        said = failed.reason or failed.strerror or str(failed)
        return f"TLS: {said.replace('_', ' ').lower()}"
    if isinstance(error, requests.Timeout):
        return "did not answer in time"
    if isinstance(error, requests.ConnectionError):
        cause = next((one for one in _causes(error) if _says_why(one)), None)
        return f"cannot be reached: {_strerror(cause)}" if cause else "cannot be reached"
    return str(error)


def _says_why(error: BaseException) -> bool:
    return (
        isinstance(error, OSError)
        and not isinstance(error, requests.RequestException)
        and error.strerror is not None
    )


def _strerror(error: BaseException) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)


def _unusable(names: str, error: OSError) -> str:
    """Return what is wrong with a file; of TLS in OpenSSL's words."""
    if isinstance(error, ssl.SSLError):
        said = (error.reason or "no PEM is in it").replace("_", " ").lower()
        return f"{names}: cannot be used: {said}"
    return f"{names}: {error.strerror or error}"


def _within(error: BaseException, kind: type[E]) -> E | None:
    return next((one for one in _causes(error) if isinstance(one, kind)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes, as `requests` and `urllib3` wrap them."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or one in seen:
            continue
        seen.append(one)
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
