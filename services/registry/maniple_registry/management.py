"""RabbitMQ's management API, as far as the registry needs it: closing an agent's connections."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote

import requests

from maniple_registry.errors import ManagementUnavailable
from maniple_runtime.tls import Tls, reason_of

TIMEOUT = 3.0
NOT_FOUND = 404
AT_ONCE = 4
REASON = "Maniple: this agent was declared failed"


@dataclass(frozen=True, slots=True)
class Closed:
    """How many connections were closed, and which of the wanted names were found."""

    count: int
    names: frozenset[str]


class Management:
    """Synchronous HTTP in threads: it is used seldom and must not hold up heartbeats."""

    def __init__(self, url: str, tls: Tls | None = None) -> None:
        self._url = url.rstrip("/")
        self._session = (tls or Tls()).session()  # no proxy between a registry and its broker

    async def close_connections(
        self, names: Collection[str], prefixes: Collection[str] = ()
    ) -> Closed:
        """Close the connections that bear one of these names.

        A name is the `connection_name` that a client gave or the broker's own
        (`10.0.0.7:5021 -> 10.0.0.1:5672`). One that is gone already is no error.
        The given ones show two to five seconds after connecting (3.10), so that one that is not
        found may be there all the same.
        Raises `ManagementUnavailable`.
        """
        named, begun = frozenset(names), tuple(prefixes)
        try:
            found = [
                (shown, given)
                for shown, given in await asyncio.to_thread(self._list)
                if shown in named or given in named or given.startswith(begun)
            ]
            gate = asyncio.Semaphore(AT_ONCE)

            async def close(shown: str) -> bool:
                async with gate:
                    return await asyncio.to_thread(self._delete, shown)

            closing = [close(shown) for shown, _ in found]
            outcomes = await asyncio.gather(*closing, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        except requests.RequestException as error:
            raise ManagementUnavailable(f"RabbitMQ's management API: {reason_of(error)}") from error
        except ValueError as error:
            raise ManagementUnavailable(f"RabbitMQ's management API: {error}") from error
        seen = frozenset(name for pair in found for name in pair if name)
        return Closed(sum(outcome is True for outcome in outcomes), seen)

    def _list(self) -> list[tuple[str, str]]:
        """Return the broker's name and the client's name of each connection."""
        # `disable_stats=true` would be cheaper but leaves out the names that clients gave (3.10).
        answer = self._session.get(
            f"{self._url}/api/connections?columns=name,user_provided_name", timeout=TIMEOUT
        )
        answer.raise_for_status()
        # One that is being opened has no name yet.
        return [
            (found["name"], found.get("user_provided_name") or "")
            for found in answer.json()
            if found.get("name")
        ]

    def _delete(self, shown: str) -> bool:
        answer = self._session.delete(
            f"{self._url}/api/connections/{quote(shown, safe='')}",
            headers={"X-Reason": REASON},
            timeout=TIMEOUT,
        )
        if answer.status_code == NOT_FOUND:
            return False
        answer.raise_for_status()
        return True
