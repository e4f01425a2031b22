"""Free TCP ports on the loopback interface."""

import random
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
# Below the range from which Linux (32768) and macOS (49152) take ports for outgoing connections:
# such a connection could otherwise take a port between our choice of it and its use.
FIRST, LAST = 10_000, 32_700
ATTEMPTS = 1_000


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nobody uses now; another process may still be faster."""
    ports: list[int] = []
    with ExitStack() as stack:
        for _ in range(ATTEMPTS):
            if len(ports) == count:
                return ports
            port = random.randint(FIRST, LAST)
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
                probe.listen(1)
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports between {FIRST} and {LAST}")
