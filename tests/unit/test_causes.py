"""What is behind a failure travels with it, bounded, and is shown to who submitted."""

import asyncio
import json
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import maniple.testing
from maniple import ErrorCode, TaskFailed, task
from maniple.causes import MAX_TEXT, MOST_LINES, MOST_TEXT, behind, lines_of
from maniple.execution import of_exception


@task("test.group")
async def in_group(_: object) -> None:
    async def fails(error: Exception) -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(fails(KeyError("price")))
        group.create_task(fails(OSError("the shop is shut")))


@task("test.caused")
def caused(_: object) -> None:
    try:
        int("many")
    except ValueError as error:
        raise RuntimeError("no total") from error


@task("test.noted")
def noted(_: object) -> None:
    error = RuntimeError("no total")
    error.add_note("while order 7 was read")
    raise error


def shut(_: object) -> None:
    raise OSError("the shop is shut")


@task("test.on_purpose")
def on_purpose(_: object) -> None:
    try:
        shut(None)
    except OSError:
        raise TaskFailed(ErrorCode.HANDLER_ERROR, "not now", retry_after=1)  # noqa: B904 - as users do


SHUT = {"type": "OSError", "message": "the shop is shut"}
FAILURES = [
    (
        "test.group",
        {"type": "ExceptionGroup", "errors": [{"type": "KeyError", "message": "'price'"}, SHUT]},
        ["- KeyError: 'price'", "- OSError: the shop is shut"],
    ),
    (
        "test.caused",
        {
            "type": "RuntimeError",
            "cause": {
                "type": "ValueError",
                "message": "invalid literal for int() with base 10: 'many'",
            },
        },
        ["because of ValueError: invalid literal for int() with base 10: 'many'"],
    ),
    (
        "test.noted",
        {"type": "RuntimeError", "notes": ["while order 7 was read"]},
        ["note: while order 7 was read"],
    ),
    (
        "test.on_purpose",
        {"type": "TaskFailed", "cause": SHUT},
        ["because of OSError: the shop is shut"],
    ),
]


@pytest.mark.parametrize(("capability", "detail", "lines"), FAILURES)
async def test_who_submitted_sees_what_is_behind_a_failure(
    capability: str, detail: Any, lines: list[str]
) -> None:
    handlers = (in_group, caused, noted, on_purpose)
    async with maniple.testing.cluster(*handlers) as client:
        handle = await client.submit(capability)
        with pytest.raises(TaskFailed) as caught:
            await handle.result(timeout=5)
    assert caught.value.detail == detail
    assert caught.value.__notes__ == lines
    assert lines[0] in "".join(traceback.format_exception(caught.value))


def chain(length: int) -> BaseException:
    error = ValueError("0")
    for number in range(1, length):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    return error


def circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


class Unreadable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")


class Lies(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise LookupError("none of your business")


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("deepest")
    for _ in range(depth):
        error = ExceptionGroup("group", [error] * 30)
    return error


def hung_with(notes: Any) -> BaseException:
    error = ValueError("x" * 100_000)
    error.__notes__ = notes
    return error


@pytest.mark.parametrize(
    "error",
    [
        chain(5000),
        circle(),
        ExceptionGroup("many", [ValueError("y" * 5000) for _ in range(1000)]),
        ExceptionGroup("unreadable", [Unreadable(), ValueError("readable")]),
        Lies("lies", [ValueError()]),
        nested(40),
        hung_with(["n" * 100_000] * 1000),
        hung_with("no list"),
        hung_with([object(), "\ud800", 3]),
        ValueError("\ud800\x1b[2J"),
    ],
    ids=lambda error: f"{type(error).__name__} {error.args[0] if error.args else ''}"[:30],
)
def test_whatever_hangs_on_an_error_its_failure_is_small_and_can_be_sent(
    error: BaseException,
) -> None:
    failure = of_exception(error).failure
    assert failure is not None
    body = json.dumps(failure.detail, ensure_ascii=False).encode()
    assert len(body) < 2 * MOST_TEXT
    assert len(lines_of(failure.detail)) <= MOST_LINES + 1


def test_of_many_errors_it_is_told_how_many_are_left_out() -> None:
    told = behind(ExceptionGroup("many", [ValueError(str(n)) for n in range(25)]))
    assert len(told["errors"]) + told["left_out"] == 25
    assert lines_of(told)[-1] == f"- … and {told['left_out']} more"


def hostile() -> Iterator[Any]:
    yield None
    yield "text"
    yield {"errors": "no list", "notes": [1, None], "cause": ["no", "object"], "left_out": "many"}
    yield {"errors": [{"type": "T", "message": "m"}] * 100_000}
    yield {"notes": ["a\nmaniple: forged", "\x1b]0;title\x07", "\u202egnp.exe"]}
    yield {"cause": {"type": "T" * 10**6, "message": "m" * 10**6}}
    deep: dict[str, Any] = {}
    for _ in range(90):
        deep = {"type": "T", "message": "m", "cause": deep, "errors": [deep, deep]}
    yield deep


@pytest.mark.parametrize("detail", list(hostile()))
def test_whatever_a_detail_says_it_is_shown_in_few_plain_lines(detail: Any) -> None:
    lines = lines_of(detail)
    assert len(lines) <= MOST_LINES + 1
    assert all(line.isprintable() and len(line) < 3 * MAX_TEXT for line in lines)


def test_a_payload_that_does_not_fit_is_told_by_its_fields() -> None:
    detail = {"errors": [{"at": ["items", 0, "price"], "message": "Field required"}]}
    assert lines_of(detail) == ["- items.0.price: Field required"]
