"""What tests read in README.md and docs/: code blocks, commands, links, tables."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), _ROOT / "infra" / "rabbitmq" / "README.md"]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
_ARROW = re.compile(r"^ +(\S+) --> (\S+): (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """The file name that its first line gives as a comment."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return match.group(1) if match else ""


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = [Block(*match) for match in _BLOCK.findall(page.read_text())]
    return [block for block in found if language in ("", block.language)]


def program(page: Path, file: str) -> str:
    """Return the Python block that calls itself `file`."""
    (text,) = [block.text for block in blocks(page, "python") if block.file == file]
    return text


def commands(page: Path) -> Iterator[list[str]]:
    """Iterate over the commands in a page's shell blocks, without variables and `uv run`."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and (words[0] == "export" or _ASSIGNMENT.fullmatch(words[0])):
                words.pop(0)
            if words[:2] == ["uv", "run"]:
                words = words[2:]
            if words:
                yield words


def first_column(page: Path, heading: str) -> list[str]:
    """Return the names in backquotes that begin the rows of the table under a heading."""
    _, found, rest = page.read_text().partition(f"\n## {heading}\n")
    if not found:
        raise LookupError(f"{page.name} has no section {heading!r}")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def arrows(page: Path) -> list[tuple[str, str, str]]:
    """Return the arrows of a page's state diagram: from, to, and what is written on them."""
    return [arrow for block in blocks(page, "mermaid") for arrow in _ARROW.findall(block.text)]
