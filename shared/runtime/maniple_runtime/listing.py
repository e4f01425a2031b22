"""Asking a registry for all agents, page by page: no answer is too long for the broker.

A registry without pages (an older release) returns all at once, which is then the last page.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from maniple.errors import RequestFailed

MOST_PAGES: Final = 5000

Ask = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends one request with this body."""


async def pages(ask: Ask) -> AsyncIterator[Mapping[str, Any]]:
    """Iterate over the answers until one names no next page.

    Several registries may share the answering; each continues where the one before ended. Raises
    what `ask` raises, and `RequestFailed` for an answer that does not lead on.
    """
    place = ""
    for _ in range(MOST_PAGES):
        answer = await ask({"after": place})
        yield answer
        following = answer.get("next")
        if following is None:
            return
        if not isinstance(following, str) or following <= place:
            raise RequestFailed("invalid_response", f"after {place!r} comes {following!r}")
        place = following
    raise RequestFailed("invalid_response", f"there are more than {MOST_PAGES} pages")


async def all_agents(ask: Ask) -> dict[str, Any]:
    """Return all `agents`, each once, and whether every registry that answered is `hearing`."""
    found: dict[str, Mapping[str, Any]] = {}
    hearing = True
    async for answer in pages(ask):
        agents = answer.get("agents")
        if not isinstance(agents, list):
            raise RequestFailed("invalid_response", "there is no list of agents in it")
        found |= {str(one["id"]): one for one in agents if isinstance(one, dict) and "id" in one}
        hearing = hearing and bool(answer.get("hearing", True))
    return {"agents": list(found.values()), "hearing": hearing}
