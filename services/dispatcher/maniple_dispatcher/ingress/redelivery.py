"""Whether a submission may have been admitted before. Pure.

Of what may have been, a copy may be running: it gets no end of a policy's making, and none for want
of room. It passes or waits.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from maniple.messages import REPEATED_HEADER


class Redelivery(Enum):
    """What is known of whether a submission was taken before, so that its tasks may be running."""

    UNKNOWN = "unknown"
    SAID = "said"
    """Its sender says that it may have been."""
    DELIVERED = "delivered"
    """A dispatcher had it, and did not settle it."""
    BOTH = "both"


def taken_before(headers: Mapping[str, Any], *, redelivered: bool) -> Redelivery:
    """Return what is known of whether a submission was taken before."""
    said = headers.get(REPEATED_HEADER) == "true"
    if redelivered:
        return Redelivery.BOTH if said else Redelivery.DELIVERED
    return Redelivery.SAID if said else Redelivery.UNKNOWN
