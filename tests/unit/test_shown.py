"""What others have said, on the terminal of whoever looks: text, in one line, and nothing else."""

import contextlib
import importlib
import io
import json
import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple_cli import control, output
from maniple_cli.checks.findings import CheckVerdict, Finding
from maniple_cli.checks.processes import components
from maniple_cli.commands import agents, doctor
from maniple_cli.commands.dev import DevScreen
from maniple_cli.commands.policy import changes, looks
from maniple_cli.dev_cluster.child import Death
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.shown import shown, shown_json
from maniple_runtime.telemetry.logs import configure_logging, get_logger

HOSTILE = [
    "[/bold]",
    "[red]no colour[/x]",
    "\x1b]0;a title\x07\x1b[2J",
    "\x9b31mC1",
    "turned \u202eround\u2066",
    "one\r\ntwo\u2028three\x85four",
    "half \ud83d",
    ":bomb: \u200b\ufeff",
]
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_quiet(text: str) -> bool:
    """Whether a terminal does nothing but show it."""
    return not any(
        unicodedata.category(one) in CONTROLS or unicodedata.bidirectional(one) in TURNING
        for one in text
    )


@given(st.text(st.characters(), max_size=20))
def test_whatever_is_said_is_one_line_that_can_be_written_and_does_nothing(text: str) -> None:
    assert is_quiet(shown(text))
    shown(text).encode()


@pytest.mark.parametrize("text", ["grüße, 你好　世界", "a\\b", "[x] {y}", "👩‍🔬"[0], "naïve café"])
def test_what_is_harmless_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


values = st.recursive(
    st.text(st.characters()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(values)
def test_json_for_people_says_what_it_said(value: Any) -> None:
    text = shown_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert all(map(is_quiet, text.split("\n")))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print tables with one line for each row."""
    monkeypatch.setenv("COLUMNS", "500")


def seen(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that were printed, none of which does anything."""
    told = capsys.readouterr()
    lines = (told.out + told.err).rstrip("\n").split("\n")
    assert all(map(is_quiet, lines)), lines
    return lines


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_agents_whatever_their_host_is_called(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask(*_: Any) -> dict[str, Any]:
        one = {"id": "a1", "agent": "a1", "state": "active", "host": text, "doubts": [text]}
        return {"agents": [{**one, "capabilities": [text]}], "hearing": True}

    monkeypatch.setattr(control, "operator_plane", contextlib.nullcontext)
    monkeypatch.setattr(control, "ask_over", ask)
    agents.agents(broker_url="amqp://x")
    lines = seen(capsys)
    assert len(lines) == 2
    assert lines[1].count(shown(text)) == 3
    agents.agents(broker_url="amqp://x", as_json=True)
    assert json.loads("\n".join(seen(capsys)))[0]["host"] == text


def revision(text: str) -> dict[str, Any]:
    match = {"capability": text, "labels": {}}
    policy = {"kind": "timeout", "name": "t", "version": 1, "match": match, "rollout": None}
    return {
        "policy": policy,
        "at": "2026-11-22T00:00:00Z",
        "author": text,
        "reason": text,
        "deleted": False,
        "diff": f"--- a\n+++ b\n+{text}\n",
    }


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_policies_whoever_wrote_them(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"policy": text, "version": 1, "verdict": text, "reason": text, "spec": {}}
    answers = {
        "list": {"policies": [revision(text)]},
        "history": {"revisions": [revision(text)]},
        "explain": {"documents": [one]},
    }
    monkeypatch.setattr(looks, "ask_policy", lambda _url, op, _body: answers[op])
    looks.list_()
    assert len(seen(capsys)) == 2
    looks.history(["timeout/t"])
    head, *change = seen(capsys)
    assert re.match(r"version 1, 2026-11-22 00:00:00 by ", head)
    if "\n" not in text:  # in a diff it is a line, and looks like one of it
        assert change == [f"  +{shown(text)}"]
    looks.explain(capability="a")
    assert len(seen(capsys)) == 2


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_where_policies_are_in_force_whatever_is_said_there(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = importlib.import_module(
        "maniple_cli.commands.policy.status"
    )  # the package has its function
    counts = dict.fromkeys(status.COUNTS, 1)
    process = {"instance": text, "service": text, "state": text, "heard": None, "behind": {text: 1}}
    told = {
        "invalid": {text: text},
        "consul": True,
        "listening": 99,
        "policies": [{"policy": text, "version": 1, **counts}],
        "processes": [process],
    }
    monkeypatch.setattr(status, "ask_policy", lambda *_: told)
    status.status()
    assert len(seen(capsys)) == 6
    change = {**revision(text), "changed": True, "dry_run": True, "touches": {text: 1}}
    changes._tell([{**change, "warnings": [text]}], {}, as_json=False)
    seen(capsys)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_doctor_whatever_a_page_says(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = {"components": {text: {"ok": False, "detail": text}}}
    doctor._print(components({text: page}, 1))
    assert len(seen(capsys)) == 2
    doctor._print(Finding(text, CheckVerdict.FAILED, text, text))
    assert len(seen(capsys)) == 2


@pytest.mark.parametrize("page", [{"components": 3}, {"components": {"a": []}}, {}, {"a": None}])
def test_doctor_reads_a_page_that_is_none_of_ours(page: dict[str, Any]) -> None:
    assert components({"x": page}, 1).check == "health"


class Terminal(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", HOSTILE[:-2], ids=ascii)
def test_an_output_is_json_that_does_nothing_to_a_terminal(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    output.print_bytes(json.dumps(text, ensure_ascii=False).encode())
    assert is_quiet(screen.getvalue().removesuffix("\n"))
    assert json.loads(screen.getvalue()) == text


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_an_error_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.complain(f"failed: {text}")
    assert len(seen(capsys)) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_the_last_lines_of_one_that_died(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    DevScreen().died(Death("agent-1", 7, 1, f"first\n{text}", None))
    head, *tail = seen(capsys)
    assert head.startswith("agent-1 (pid 7) died: ")
    assert tail[0] == "    first"
    assert len(tail) == 2 + text.count("\n")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_log_line_for_people_is_one_line(text: str) -> None:
    screen = io.StringIO()
    configure_logging(ServiceSettings(log_format="console"), screen)
    get_logger("maniple.test").warning(text, reason=text)
    assert is_quiet(screen.getvalue().removesuffix("\n"))
