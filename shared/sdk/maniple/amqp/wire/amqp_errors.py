"""What goes wrong on a connection to a broker, and with what is published there."""

ACCESS_REFUSED = 403
NOT_FOUND = 404
PRECONDITION_FAILED = 406
FRAME_ERROR = 501
NOT_ALLOWED = 530
INTERNAL_ERROR = 541


class AmqpError(Exception):
    """Anything that ends a connection, a channel or a publish."""


class ConnectionLost(AmqpError):
    """The connection is gone, or did not come about; `__cause__` is the system's error, if any."""


class ProtocolError(ConnectionLost):
    """The peer sent what AMQP 0-9-1 does not allow; we have dropped the connection."""


class ConnectionRefused(ConnectionLost):
    """The broker has closed the connection, with `code` and `text` of AMQP."""

    def __init__(self, code: int, text: str) -> None:
        """Take over what the broker said."""
        super().__init__(f"{text} ({code})")
        self.code, self.text = code, text


class LoginRefused(ConnectionLost):
    """The broker refused the credentials."""


class ChannelLost(AmqpError):
    """The channel is closed: by us, or by the broker with `code` and `text` of AMQP."""

    def __init__(self, text: str, code: int = 0) -> None:
        """Take over what the broker said."""
        super().__init__(text)
        self.code = code


class AccessRefused(ChannelLost):
    """The broker closed the channel: the user lacks a right (403)."""


class NotFound(ChannelLost):
    """The broker closed the channel: a queue or exchange is not there (404)."""


class PreconditionFailed(ChannelLost):
    """The broker closed the channel: a queue has other arguments, say (406)."""


class PublishFailed(AmqpError):
    """A queue refused a message (`basic.nack`), or it was returned: the broker's answer."""


class PublishReturned(PublishFailed):
    """A mandatory message was bound to no queue (`basic.return`)."""


class PublishImpossible(Exception):
    """AMQP has no room for a property of a message: it was not sent, and nothing has ended."""


_BY_CODE: dict[int, type[ChannelLost]] = {
    ACCESS_REFUSED: AccessRefused,
    NOT_FOUND: NotFound,
    PRECONDITION_FAILED: PreconditionFailed,
}


def channel_closed(code: int, text: str) -> ChannelLost:
    """Return the error of a channel that the broker has closed."""
    return _BY_CODE.get(code, ChannelLost)(text, code)
