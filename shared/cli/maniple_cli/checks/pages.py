"""Pages read over HTTP, and what they show of their server's clock."""

import asyncio
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from maniple_runtime.bounded_http import BoundedSession
from maniple_runtime.tls import Tls, reason_of

TIMEOUT = 5.0
MOST_BYTES = 32 * 1024 * 1024  # the management API tells of all queues at once
DATE_STEP = 1.0  # seconds: HTTP's Date has no fractions


@dataclass(frozen=True)
class Page:
    """A decoded page; `ahead` is by how many seconds its server's clock is ahead of ours.

    It is the least difference that the answer proves, negative if behind, None without a Date.
    """

    status: int
    value: Any
    ahead: float | None = None


class PageUnread(Exception):
    """The page could not be read; the message says what came instead."""


async def read(url: str, timeout: float = TIMEOUT, tls: Tls | None = None) -> Page:
    """GET a JSON page, ignoring the environment's proxies. Raises `PageUnread`."""
    return await asyncio.to_thread(_read, url, timeout, tls or Tls())


def _read(url: str, timeout: float, tls: Tls) -> Page:
    with tls.session(BoundedSession(MOST_BYTES)) as session:
        sent = time.time()
        try:
            answer = session.get(url, timeout=timeout)
            ahead = least_ahead(answer.headers.get("date"), sent, time.time())
            return Page(answer.status_code, answer.json(), ahead)
        except requests.exceptions.JSONDecodeError as error:
            raise PageUnread(f"answered {answer.status_code}: {answer.text[:200]}") from error
        except requests.RequestException as error:
            raise PageUnread(reason_of(error)) from error
        except (ValueError, RecursionError) as error:
            raise PageUnread(f"answered what is no JSON of ours: {error!r}"[:200]) from error


def least_ahead(date: str | None, sent: float, received: float) -> float | None:
    """Return the least difference that an HTTP Date proves of a clock, ahead of ours positive.

    The page was written between `sent` and `received`, Unix seconds of our clock.
    """
    if date is None:
        return None
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    if told > received:
        return told - received
    return min(0.0, told + DATE_STEP - sent)
