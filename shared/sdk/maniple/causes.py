"""The causes of an error: an agent writes them into a failure's `detail`, a client reads them.

An object with the `type` of the exception and, if present, its `notes`, the `cause` (the exception
that it was raised from, or while handling) and the `errors` of a group; these also have a
`message`. Length and number are bounded here, and once more when they are read.
"""

from collections.abc import Iterator
from typing import Any

MAX_MESSAGE = 2000
MOST_ERRORS = 20  # in all
MOST_BESIDE = 10  # in one group
MOST_NOTES = 5
MOST_DEEP = 6
MAX_TEXT = 500  # characters of one message or note below the first
MOST_TEXT = 8000  # of all of them
MOST_LINES = 40


def text_of(value: Any, most: int = MAX_MESSAGE) -> str:
    """Return a text of bounded length that can be encoded. Raises whatever reading it raises."""
    return str(value)[:most].encode("utf-8", "replace").decode()


def behind(error: BaseException) -> dict[str, Any]:
    """Return the type of an exception and its causes; see the module."""
    told = _Telling().told(error, MOST_DEEP)
    told.pop("message", None)  # which is the failure's own
    return told


class _Telling:
    """Describes one error within a bound on the number of errors."""

    def __init__(self) -> None:
        self._errors = MOST_ERRORS
        self._text = MOST_TEXT
        self._seen: set[int] = set()

    def told(self, error: BaseException, deep: int) -> dict[str, Any]:
        self._errors -= 1
        self._seen.add(id(error))
        told: dict[str, Any] = {"type": text_of(type(error).__name__, MAX_TEXT)}
        try:
            told["message"] = self._cut(error)
            self._tell_more(error, told, deep - 1)
        except BaseException:  # noqa: BLE001 - an error of the handler's own may raise when it is read
            told["message"] = "it raises when it is read"
        return told

    def _tell_more(self, error: BaseException, told: dict[str, Any], deep: int) -> None:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list) and notes:
            told["notes"] = [self._cut(note) for note in notes[:MOST_NOTES]]
        if isinstance(error, BaseExceptionGroup):
            beside = error.exceptions
            told["errors"] = [
                self.told(e, deep) for e in beside[:MOST_BESIDE] if self._room(e, deep)
            ]
            if left_out := len(beside) - len(told["errors"]):
                told["left_out"] = left_out
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
        if cause is not None and self._room(cause, deep):
            told["cause"] = self.told(cause, deep)

    def _room(self, error: BaseException, deep: int) -> bool:
        return deep > 0 and self._errors > 0 and id(error) not in self._seen

    def _cut(self, value: Any) -> str:
        text = text_of(value, min(MAX_TEXT, self._text))
        self._text -= len(text)
        return text


def lines_of(detail: Any) -> list[str]:
    """Return the causes in a failure's `detail`, one line of text each.

    It may come from anywhere: parts that `behind` would not write are skipped.
    """
    lines: list[str] = []
    for line in _lines(detail, "", MOST_DEEP):
        if len(lines) == MOST_LINES:
            return [*lines, "…"]
        lines.append(line)
    return lines


def _lines(told: Any, indent: str, deep: int) -> Iterator[str]:
    if not isinstance(told, dict) or deep <= 0:
        return
    for note in _list(told.get("notes")):
        if isinstance(note, str):
            yield f"{indent}note: {_plain(note)}"
    for inner in _list(told.get("errors")):
        if (said := _said(inner)) is not None:
            yield f"{indent}- {said}"
            yield from _lines(inner, f"{indent}  ", deep - 1)
    if isinstance(left_out := told.get("left_out"), int):
        yield f"{indent}- … and {left_out} more"
    if (said := _said(cause := told.get("cause"))) is not None:
        yield f"{indent}because of {said}"
        yield from _lines(cause, f"{indent}  ", deep - 1)


def _list(value: Any) -> list[Any]:
    return value[: MOST_LINES + 1] if isinstance(value, list) else []


def _said(told: Any) -> str | None:
    """Return one line about an error: an exception, or a payload field that is invalid."""
    if not isinstance(told, dict) or not isinstance(message := told.get("message"), str):
        return None
    at = ".".join(_plain(str(one)) for one in _list(told.get("at")) if isinstance(one, str | int))
    kind = told.get("type")
    if where := _plain(kind) if isinstance(kind, str) else at:
        return f"{where}: {_plain(message)}".removesuffix(": ")
    return None


def _plain(text: str) -> str:
    """Return the text as one line without control characters, fit for a terminal."""
    cut = text[: MAX_TEXT + 1]
    shown = "".join(c if c.isprintable() else " " for c in cut[:MAX_TEXT])
    return " ".join(shown.split()) + ("…" if len(cut) > MAX_TEXT else "")
