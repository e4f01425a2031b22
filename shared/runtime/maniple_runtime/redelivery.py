"""What the loss of an agent makes of a task, for whoever finds that it was lost. Pure."""

from typing import Final

from msgspec.structs import replace

from maniple.messages import Envelope

LOST_AFTER: Final = 5
"""Losses among suspects, which run alone: then it is the task that takes its agents with it."""


def once_more(envelope: Envelope, *, suspect: bool) -> Envelope:
    """Return a task as one whose agent was lost again; `suspect` if it had come from suspects."""
    return replace(envelope, lost=envelope.lost + 1, suspected=envelope.suspected + suspect)


def too_often(envelope: Envelope) -> str | None:
    """Return why a task that was lost is to run no more; None if it may."""
    if envelope.suspected < LOST_AFTER:
        return None
    return f"{envelope.lost} agents were lost while they held it"
