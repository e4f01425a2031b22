"""URLs as people write them: what is wrong with one is said in words, and never repeats it."""

import re
from urllib.parse import SplitResult, urlsplit

BROKER_EXAMPLE = "amqp://user:password@host:5672/vhost"
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
HTTP_EXAMPLE = "http://host:8500"

_ENCODE = (
    "percent-encode the user and the password: '#' is %23, '/' is %2F, '?' is %3F, '@' is %40,"
    " '[' is %5B, '%' is %25"
)


def check_broker_url(url: str) -> SplitResult:
    """Return the parts of a broker's URL. Raises `ValueError`, in words."""
    return _checked(url, {"amqp", "amqps"}, BROKER_EXAMPLE)


def check_http_url(url: str) -> SplitResult:
    """Return the parts of the URL of an HTTP API. Raises `ValueError`, in words."""
    return _checked(url, {"http", "https"}, HTTP_EXAMPLE)


def place_of(broker_url: str) -> str:
    """Return host, port and vhost of a broker's URL, as people are told where it is."""
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
    _check_port(parts)
    return parts


def _check_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535")


def _is_cut_short(url: str) -> bool:
    """Whether a `/`, `?` or `#` in the password has ended the part with the host."""
    _, _, rest = url.partition("://")
    ended = re.search(r"[/?#]", rest)
    if ended is None or "@" in rest[: ended.start()]:
        return False
    before_values, _, _ = rest[ended.start() :].partition("=")  # a file's name may have an `@`
    return "@" in before_values or (ended[0] == "#" and "@" in rest)
