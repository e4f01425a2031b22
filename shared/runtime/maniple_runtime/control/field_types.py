"""Types of the fields of control messages: names, counts and seconds, with what they may be."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, NewType

from pydantic import AfterValidator, Field, Strict, StringConstraints

from maniple_runtime.control.incarnations import Incarnation

AgentId = NewType("AgentId", str)
MOST_NAMES = 2000  # in one list; an agent that serves more lanes than that is several
MOST_CONNECTIONS = 64


def _sorted_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


# What stands in routing keys and names of queues has to fit there: 255 bytes in all.
_AGENT_NAME = r"[A-Za-z0-9_-]{1,100}"
AgentName = Annotated[AgentId, StringConstraints(pattern=f"^{_AGENT_NAME}$")]
"""As `MANIPLE_INSTANCE`: one word of a routing key."""
MOST_OF_A_LIFE = 64
Life = Annotated[Incarnation, StringConstraints(min_length=1, max_length=MOST_OF_A_LIFE)]
Name = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]
"""Of a capability, variant or lane: printable ASCII without spaces."""
Text = Annotated[str, StringConstraints(max_length=1000)]
ConnectionName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Whole = Annotated[int, Strict()]
"""An integer; true or a text is refused, because no process of ours writes either."""
Count = Annotated[Whole, Field(ge=0, le=2**53)]
"""No more than a float, which counters are, holds exactly."""
_LONGEST: Final = 1e9
Seconds = Annotated[float, Strict(), Field(ge=0, le=_LONGEST)]
Period = Annotated[float, Strict(), Field(gt=0, le=_LONGEST)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES), AfterValidator(_sorted_unique)]
"""A set of names, kept sorted so that equal sets have equal bytes and equal digests."""
Texts = Annotated[Mapping[Text, Text], Field(max_length=MOST_NAMES)]


def is_agent_name(text: str) -> bool:
    """Tell whether an agent may have this name."""
    return re.fullmatch(_AGENT_NAME, text) is not None
