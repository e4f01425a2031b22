"""Making text from others fit for a terminal."""

import re
from typing import Final

_ODD: Final = re.compile(
    "["
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: cursors, colours, titles, ends of lines
    r"\u2028\u2029"  # ends of lines, too
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns text around
    r"\xad\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # what is not seen
    r"\U000e0000-\U000e0fff"
    r"\ud800-\udfff\ufffe\uffff"  # what cannot be written at all
    "]"
)


def shown(text: object) -> str:
    r"""Return a text as one line without control characters or changes of direction.

    They are replaced by Python's escapes: `\x1b`, `\u202e`, `\n`.
    """
    return _ODD.sub(_escaped, str(text))


def shown_json(text: str) -> str:
    """Return equal JSON with such characters escaped, except the ends of its lines."""
    return "\n".join(_ODD.sub(_as_json, line) for line in text.split("\n"))


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _as_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[place : place + 4]}" for place in range(0, len(units), 4))
