"""The documentation is complete and true, as far as a program can tell."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import generated_tables
from documents import PAGES, blocks, commands, first_column, program
from maniple.errors import ErrorCode
from maniple.messages import Result, Task
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.main import build
from paths import ROOT

DOCS = ROOT / "docs"
MESSAGES = DOCS / "messages.md"
# Programs of others that our pages tell to run.
FOREIGN = {"cd", "curl", "docker", "git", "pre-commit", "promtool"}
FOREIGN |= {"rabbitmq-diagnostics", "rabbitmqctl", "rabbitmqadmin"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(r"`((?:shared|services|tests|infra|docs|bench|examples)/[\w./-]+?)(?:::\w+)?`")
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)


@each_page
def test_generated_tables_are_what_the_code_says(page: Path) -> None:
    text = page.read_text()
    assert text == generated_tables.rendered(text), f"run: {generated_tables.COMMAND}"


def test_every_generated_table_is_shown() -> None:
    shown = [name for page in PAGES for name in generated_tables.names(page.read_text())]
    assert sorted(shown) == sorted(generated_tables.TABLES)


@pytest.mark.parametrize(("heading", "struct"), [("Task", Task), ("Result", Result)])
def test_every_field_of_a_message_is_told(heading: str, struct: type[Task | Result]) -> None:
    assert first_column(MESSAGES, heading) == list(struct.__struct_fields__)


def test_every_error_code_is_told() -> None:
    assert first_column(MESSAGES, "Error codes") == [code.value for code in ErrorCode]


def test_every_refusal_has_a_code_that_exists() -> None:
    _, _, section = (DOCS / "publishing.md").read_text().partition("\n## Refusals\n")
    told = re.findall(r"^\| .+ \| `(\w+)`", section.partition("\n## ")[0], re.MULTILINE)
    assert len(told) > 10
    assert set(told) <= {code.value for code in ErrorCode}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def maniple() -> TyperGroup:
    group = get_command(build())
    assert isinstance(group, TyperGroup)
    return group


def check_command(words: list[str]) -> None:
    """Fail unless the program, its subcommand and its options exist."""
    name, *rest = words
    if name == "make":
        assert {word for word in rest if "=" not in word} <= targets()  # the others are variables
    elif name in {"python", "python3"}:
        ours = ROOT / (f"{rest[1].replace('.', '/')}.py" if rest[0] == "-m" else rest[0])
        assert ours.exists() or (rest[0] == "-m" and importlib.util.find_spec(rest[1]))
    elif name == "maniple":
        check_maniple(rest)
    elif "/" in name:
        assert os.access(ROOT / name, os.X_OK)
    else:
        assert name in FOREIGN | {"pytest", "ruff", "mypy", "lint-imports"}


def check_maniple(words: list[str]) -> None:
    command: Any = maniple()
    while inner := getattr(command, "commands", None):  # a group: its next word is a command
        name, *words = words
        command = inner[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


@each_page
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] != "python" or (ROOT / words[1]).exists() or words[1] == "-m":
            check_command(words)
        else:  # one of the page's own programs
            assert program(page, words[1])


def names_of(commands: Mapping[str, Any]) -> Iterator[str]:
    for name, command in commands.items():
        if inner := getattr(command, "commands", None):
            yield from (f"{name} {one}" for one in names_of(inner))
        else:
            yield name


def test_every_command_of_maniple_is_in_the_readme() -> None:
    listed = first_column(ROOT / "README.md", "Command line")
    assert sorted(listed) == sorted(f"maniple {name}" for name in names_of(maniple().commands))


def anchors(page: Path) -> set[str]:
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(page.read_text())
    }


def test_there_are_commands_links_and_files_that_pages_name() -> None:
    texts = [page.read_text() for page in PAGES]
    for pattern in (LINK, PATH):
        assert any(pattern.search(text) for text in texts), pattern
    assert any(any(commands(page)) for page in PAGES)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert list(ROOT.glob(path)), path


def test_the_example_handlers_pass_their_example_test(tmp_path: Path) -> None:
    page = DOCS / "handlers.md"
    for file in ("shop.py", "test_shop.py"):
        (tmp_path / file).write_text(program(page, file))
    assert len(blocks(page, "python")) == 2
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "test_shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_the_example_of_the_sdk_prints_what_its_page_says(cluster: Cluster) -> None:
    page = DOCS / "publishing.md"
    (expected,) = [block.text for block in blocks(page, "text")]
    run = subprocess.run(
        [sys.executable, "-c", program(page, "sdk.py")],
        env={"MANIPLE_BROKER_URL": cluster.ready_info()["client_url"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout == expected, run.stderr
