"""The pages of protocols name messages, fields, files and times as the code has them."""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import Struct

from documents import blocks
from maniple.amqp import OrphanedQueue
from maniple.timings import Peers, Timings
from maniple.topology import OUTCOMES
from maniple_dispatcher.affinity.agents import AGENT_EVENTS
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.affinity.queue_markers import QueueMarkers
from maniple_dispatcher.limits import messages
from paths import ROOT

LIMITS = ROOT / "docs" / "protocols" / "limits.md"
ORPHANED = ROOT / "docs" / "protocols" / "orphaned_queues.md"
PAGES = [
    LIMITS,
    ORPHANED,
    *(ROOT / "docs" / "states" / f"{name}.md" for name in ("breaker", "fence")),
]
PARTS = {one.name for one in fields(Timings)}
STRUCTS: dict[str, type[Struct]] = {
    name: one
    for name, one in vars(messages).items()
    if isinstance(one, type) and one.__module__ == messages.__name__
}
NAMED = re.compile(r"\b([a-z_]+)\.([A-Za-z_]+)\b(?:`\s\(([\d.]+)(?:\ss)?\))?")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Named(NamedTuple):
    """A time or a constant that a page names, and the figure that it gives for it, if any."""

    name: str
    value: Any
    figure: str


def named(page: Path) -> Iterator[Named]:
    """Find times by their part of `Timings`, and constants, in capitals, by their module."""
    for owner, name, figure in NAMED.findall(page.read_text()):
        if name.isupper():
            (value,) = (have[name] for have in modules_called(owner) if name in have)
            yield Named(f"{owner}.{name}", value, figure)
        elif owner in PARTS and name not in {"py", "md"}:
            yield Named(f"{owner}.{name}", getattr(getattr(Timings(), owner), name), figure)


def modules_called(name: str) -> Iterator[Mapping[str, Any]]:
    """Return what the modules of services that are called so have."""
    for path in ROOT.glob(f"services/*/maniple_*/**/{name}.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts[2:]
        yield vars(importlib.import_module(".".join(parts)))


def told(page: Path, heading: str) -> list[str]:
    """Return the names in the first column of the table under a heading of a page."""
    _, _, rest = page.read_text().partition(f"\n### {heading}\n")
    rows = re.findall(r"^\| (`.+?) \|", rest.partition("\n#")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def pictured(page: Path) -> str:
    """Return the text of a page's picture."""
    (picture,) = blocks(page, "mermaid")
    return picture.text


@pytest.mark.parametrize("struct", STRUCTS.values(), ids=STRUCTS)
def test_every_field_of_what_dispatchers_tell_each_other_is_told(struct: type[Struct]) -> None:
    assert told(LIMITS, struct.__name__) == list(struct.__struct_fields__)


def test_every_message_between_dispatchers_has_its_table_and_no_other_has() -> None:
    assert set(re.findall(r"^### (\w+)$", LIMITS.read_text(), re.MULTILINE)) == STRUCTS.keys()
    assert f"`{messages.REPORT_TYPE}`" in LIMITS.read_text()
    assert f"`{OUTCOMES.name}`" in LIMITS.read_text()


def test_the_picture_of_a_request_has_messages_and_fields_that_exist() -> None:
    sent = re.findall(r"\b([A-Z]\w+)\(([\w, ]+)\)", pictured(LIMITS))
    assert {name for name, _ in sent} == {"DispatcherReport", "Ask", "Grant"}
    for name, inside in sent:
        assert set(inside.split(", ")) <= set(STRUCTS[name].__struct_fields__), name


def test_the_events_that_tell_who_has_left_a_queue_are_those_that_are_heard() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| event \|", ORPHANED.read_text(), re.MULTILINE)
    assert rows == [event.KEY for event in AGENT_EVENTS]


def test_the_picture_of_draining_has_operations_that_exist() -> None:
    done = set(re.findall(r"D->>([DQ]): (\w+)", pictured(ORPHANED)))
    of_queue = {name for whom, name in done if whom == "Q"}
    assert of_queue == {name for name in of_queue if hasattr(OrphanedQueue, name)}
    assert {"consume", "unbind", "remove_queue"} <= of_queue
    others = {name for whom, name in done if whom == "D"}
    assert others == {
        name for name in others if hasattr(Assignment, name) or hasattr(QueueMarkers, name)
    }
    assert {"withhold", "remove_marker", "release"} <= others


@each_page
def test_every_time_of_a_page_is_what_the_code_has(page: Path) -> None:
    found = list(named(page))
    assert {
        one.name: one.figure for one in found if one.figure and float(one.figure) != one.value
    } == {}
    times = {one.name for one in found if one.name.partition(".")[0] in PARTS}
    without = times - {one.name for one in found if one.figure}
    assert times
    assert {name for name in without if not name.rpartition(".")[2].isupper()} == set()


def test_every_time_of_dispatchers_among_themselves_is_told() -> None:
    names = {one.name for one in named(LIMITS)}
    assert {f"peers.{one.name}" for one in fields(Peers)} <= names


@each_page
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    modules = re.findall(r"`(?:\S*/)?(\w+\.py)`", page.read_text())
    assert modules
    assert {one for one in modules if not list(ROOT.glob(f"s*/*/**/{one}"))} == set()
