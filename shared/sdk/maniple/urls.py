"""Checks of URLs as people write them; an error message never repeats the URL."""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

BROKER_EXAMPLE = "amqp://user:password@host:5672/vhost"
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
HTTP_EXAMPLE = "http://host:8500"

MOST_VHOST = 127  # letters that the protocol has for one
MOST_HEARTBEAT = 65_535  # seconds, below which the protocol's are

_ENCODE = (
    "percent-encode the user and the password: '#' is %23, '/' is %2F, '?' is %3F, '@' is %40,"
    " '[' is %5B, '%' is %25"
)


def check_broker_url(url: str) -> SplitResult:
    """Return the parts of a broker's URL. Raises `ValueError` with a sentence."""
    parts = _checked(url, {"amqp", "amqps"}, BROKER_EXAMPLE)
    if len(unquote(parts.path[1:])) > MOST_VHOST:
        raise ValueError(f"the vhost has more than {MOST_VHOST} letters")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in PARAMETERS and "@" in parts.query:  # it is a part of the password
            raise ValueError(_ENCODE)
        _check_parameter(name, value, parts.scheme)
    return parts


def check_http_url(url: str) -> SplitResult:
    """Return the parts of the URL of an HTTP API. Raises `ValueError` with a sentence."""
    return _checked(url, {"http", "https"}, HTTP_EXAMPLE)


def place_of(broker_url: str) -> str:
    """Return host, port and vhost of a broker's URL, to show to people."""
    parts = urlsplit(broker_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}{parts.path}"


def without_password(url: str) -> str:
    """Return the URL with `***` for its password, fit for a log line."""
    # Up to the last `@`: a password may have one that is not encoded.
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", url)


def _checked(url: str, schemes: set[str], example: str) -> SplitResult:
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError("has a space or a control character in it")
    if _is_cut_short(url):
        raise ValueError(_ENCODE)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # brackets that are not an address
        raise ValueError(f"must look like {example}; {_ENCODE}") from None
    place = parts.netloc.rpartition("@")[2]
    if place.count(":") > 1 and not place.startswith("["):
        raise ValueError("an IPv6 address stands in brackets: [::1]")
    if parts.scheme not in schemes or not host or parts.fragment:
        raise ValueError(f"must look like {example}")
    _check_host(host)
    _check_port(parts)
    return parts


def _check_host(host: str) -> None:
    if ":" in host:  # an address, which was looked at when it was taken out of its brackets
        return
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(
            "the host is no name: between its dots stand 1 to 63 letters each"
        ) from None
    if "%" in host:
        raise ValueError("the host is no name: it has a '%' in it")


def _check_parameter(name: str, value: str, scheme: str) -> None:
    """Raise `ValueError` for a parameter of a broker's URL that would be ignored."""
    if name not in PARAMETERS:
        raise ValueError(f"there is no parameter {name!r}: there is {', '.join(PARAMETERS)}")
    is_right, wanted = PARAMETERS[name]
    if not is_right(value):
        raise ValueError(f"{name} must be {wanted}")
    if name in TLS_PARAMETERS and scheme != "amqps":
        raise ValueError(f"{name} is for amqps://")


def _is_base64(value: str) -> bool:
    try:
        return bool(b64decode(value))
    except binascii.Error:
        return False


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", value) is not None and int(value) < MOST_HEARTBEAT


_A_FILE: tuple[Callable[[str], bool], str] = (bool, "the path of a file")
TLS_PARAMETERS = {
    "cafile": _A_FILE,
    "capath": (bool, "the path of a folder"),
    "cadata": (_is_base64, "base64 of certificates"),
    "certfile": _A_FILE,
    "keyfile": _A_FILE,
    "no_verify_ssl": (lambda value: value in {"0", "1"}, "0 or 1"),
}
"""The TLS parameters of a broker's URL: which values are right, and the message for others."""
PARAMETERS = {
    **TLS_PARAMETERS,
    "heartbeat": (_is_number, "a number of seconds"),
    "timeout": (_is_number, "a number of seconds"),
    "name": (bool, "the name of the connection"),
}
"""All parameters of a broker's URL; Maniple sets `heartbeat` and `name` itself."""


def _check_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535")


def _is_cut_short(url: str) -> bool:
    """Tell whether a `/`, `?` or `#` in the password has ended the part with the host."""
    _, _, rest = url.partition("://")
    ended = re.search(r"[/?#]", rest)
    if ended is None or "@" in rest[: ended.start()]:
        return False
    before_values, _, _ = rest[ended.start() :].partition("=")  # a file's name may have an `@`
    return "@" in before_values or (ended[0] == "#" and "@" in rest)
