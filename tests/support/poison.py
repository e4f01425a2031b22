"""Addresses of direct reply-to over which RabbitMQ 3.10 closes the connection."""

from base64 import b64encode

from outsider import DIRECT_REPLY_TO

KEY = b64encode(bytes(16)).decode()


def of_a_node_that_is_gone(number: int) -> str:
    """Return an address as brokers make them, but of no node of this cluster."""
    node = b"reply@%d" % number
    process = b"\x83\x58\x77" + bytes([len(node)]) + node + bytes(12)
    return f"{DIRECT_REPLY_TO}.{b64encode(process).decode()}.{KEY}"
