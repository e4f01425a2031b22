"""RabbitMQ's management API, as far as the registry needs it: closing an agent's connections."""

import asyncio
from collections.abc import Collection
from urllib.parse import quote

import requests

from maniple_registry.errors import ManagementUnavailable

TIMEOUT = 3.0
NOT_FOUND = 404
REASON = "Maniple: this agent was declared failed"


class Management:
    """Synchronous HTTP in threads: it is used seldom and must not hold up heartbeats."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def close_connections(self, names: Collection[str]) -> int:
        """Close the connections that bear one of these names; return how many.

        A name is the `connection_name` that a client gave or the broker's own
        (`10.0.0.7:5021 -> 10.0.0.1:5672`). One that is gone already is no error.
        The given ones show two or three seconds after connecting (3.10).
        Raises `ManagementUnavailable`.
        """
        return await asyncio.to_thread(self._close, frozenset(names))

    def _close(self, names: frozenset[str]) -> int:
        try:
            return sum(map(self._delete, self._shown(names)))
        except (requests.RequestException, ValueError) as error:
            raise ManagementUnavailable(f"RabbitMQ's management API: {error}") from error

    def _shown(self, names: frozenset[str]) -> list[str]:
        # `disable_stats=true` would be cheaper but leaves out the names that clients gave (3.10).
        answer = requests.get(
            f"{self._url}/api/connections?columns=name,user_provided_name", timeout=TIMEOUT
        )
        answer.raise_for_status()
        # One that is being opened has no name yet.
        return [
            found["name"]
            for found in answer.json()
            if found.get("name")
            and (found["name"] in names or found.get("user_provided_name") in names)
        ]

    def _delete(self, shown: str) -> bool:
        answer = requests.delete(
            f"{self._url}/api/connections/{quote(shown, safe='')}",
            headers={"X-Reason": REASON},
            timeout=TIMEOUT,
        )
        if answer.status_code == NOT_FOUND:
            return False
        answer.raise_for_status()
        return True
