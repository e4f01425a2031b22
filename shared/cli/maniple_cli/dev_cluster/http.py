"""Small HTTP requests to servers on this machine, ignoring the environment's proxies."""

import asyncio

import requests

from maniple_runtime.tls import Tls, reason_of

TIMEOUT = 5.0


def _get(url: str, timeout: float, tls: Tls) -> tuple[int, str]:
    with tls.session() as session:
        answer = session.get(url, timeout=timeout)
        return answer.status_code, answer.text


async def fetch(
    url: str, *, timeout_seconds: float = TIMEOUT, tls: Tls | None = None
) -> tuple[int, str]:
    """GET `url` (with user and password in it); return status and body, or (0, reason)."""
    try:
        return await asyncio.to_thread(_get, url, timeout_seconds, tls or Tls())
    except requests.RequestException as error:
        return 0, reason_of(error)
