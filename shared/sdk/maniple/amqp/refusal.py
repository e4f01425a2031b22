"""What a broker refuses for good: trying again is of no use, so the caller is told at once."""

import re
import ssl

from maniple.amqp.wire.amqp_errors import (
    NOT_ALLOWED,
    AccessRefused,
    ConnectionLost,
    ConnectionRefused,
    LoginRefused,
    PreconditionFailed,
)
from maniple.amqp.wire.channel import Channel
from maniple.errors import BrokerRefused

NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # by the release of OpenSSL

# Of connections, that is: others go away.
_LIMIT = re.compile(r"limit \(\d+\) is reached")
_TOPIC = re.compile(r"access to topic '(?P<key>.*)' in exchange '(?P<exchange>.*)' in vhost ")
_EXCHANGE = re.compile(r"access to exchange '(?P<exchange>.*)' in vhost ")
_SIZE = re.compile(r"message size (?P<size>\d+) is larger than ")


def refusal(error: BaseException | None) -> str | None:
    """Return why a broker refuses a login, vhost, right or TLS for good, else None."""
    match error:
        case LoginRefused():
            return f"refused the credentials: {error}"
        case AccessRefused():
            return f"refused: {error}"
        case ConnectionRefused(code=code, text=text) if code == NOT_ALLOWED:
            return None if _LIMIT.search(text) else f"refused: {text}"
        case ConnectionLost(__cause__=ssl.SSLError() as why):
            return _untrusted(why)
        case _:
            return None


def _untrusted(error: ssl.SSLError) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"is not trusted: {error.verify_message}; "
            "give the file of its authority as ?cafile=…, and its host as the certificate has it"
        )
    if error.reason in NO_TLS:
        return "does not speak TLS there; give the port where it does, or amqp://"
    return None


def why_away(error: BaseException | None) -> str:
    """Return why there is no connection, in the operating system's words if it has any."""
    if isinstance(error, ConnectionLost) and isinstance(error.__cause__, OSError):
        return error.__cause__.strerror or repr(error)
    return repr(error)


def end_of(channel: Channel) -> BaseException | None:
    """Return why a channel was closed, as far as that is known."""
    closing = channel.closing
    return closing.exception() if closing.done() and not closing.cancelled() else None


def check_published(
    error: BaseException | None, exchange: str, routing_key: str, size: int
) -> None:
    """Raise `BrokerRefused` if a channel was closed because of this message.

    All publishes under way on a channel end with it, also those that the broker would accept.
    """
    said = str(error)
    match error:
        case AccessRefused():
            topic, whole = _TOPIC.search(said), _EXCHANGE.search(said)
            if topic is not None:
                meant = (topic["exchange"], topic["key"]) == (exchange, routing_key)
            else:
                meant = whole is not None and whole["exchange"] == exchange
        case PreconditionFailed():
            found = _SIZE.search(said)
            meant = found is not None and int(found["size"]) == size
        case _:
            return
    if meant:
        raise BrokerRefused(f"RabbitMQ refused: {said}") from error
