"""The no-op that Maniple's agents run."""

from maniple.tasks import task

CAPABILITY = "bench.noop"


@task(CAPABILITY)
async def noop(payload: int) -> int:
    """Return the payload."""
    return payload
