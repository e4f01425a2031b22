"""What happens to a task whose agent was lost, for whichever process finds that out. Pure."""

from typing import Final

from msgspec.structs import replace

from maniple.messages import Envelope

LOST_AFTER: Final = 5
"""Losses in the suspect queue, where tasks run alone: then it is the task that kills its agents."""


def once_more(envelope: Envelope, *, suspect: bool) -> Envelope:
    """Return a task as lost by one more agent; `suspect` if it came from the suspect queue."""
    return replace(envelope, lost=envelope.lost + 1, suspected=envelope.suspected + suspect)


def too_often(envelope: Envelope) -> str | None:
    """Return why a lost task is not run again; None if it may be."""
    if envelope.suspected < LOST_AFTER:
        return None
    return f"{envelope.lost} agents were lost while they held it"
