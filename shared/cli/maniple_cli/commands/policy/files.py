"""Reading documents from files; each error has its line."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from maniple.errors import ConfigurationError
from maniple_cli.output import why
from maniple_cli.texts import unmarked
from maniple_policies import Policy, parse_policy, problems_of, ties

SUFFIXES = {".yaml", ".yml", ".json"}
STDIN = "-"
MAX_BYTES = 8 * 1024 * 1024
Loc = tuple[int | str, ...]
_PAIR = re.compile(r"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


class WrongFiles(ConfigurationError):
    """One or more documents are wrong; each problem is a line `file:line: what`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True, slots=True)
class Given:
    """A document, and the line where it starts."""

    policy: Policy
    place: str


class _Loader(yaml.SafeLoader):
    """Loads YAML with JSON's values: `on` is a word, no dates, `1e3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML declares it so

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Refuse names that are not text, and duplicate names."""
        self.flatten_mapping(node)
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="a name must be text: put it in quotes",
                                           problem_mark=key.start_mark)  # fmt: skip
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice",
                                           problem_mark=key.start_mark)  # fmt: skip
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False|TRUE|FALSE", "tfTF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def read_all(sources: Iterable[str]) -> list[Given]:
    """Read files, folders (their files, by name) and `-`; raises `WrongFiles`, `OSError`.

    Every document of every file is checked, and all problems are reported at once.
    """
    problems: list[str] = []
    given: list[Given] = []
    for name, text in _texts(sources):
        try:
            given += _documents(name, text, problems)
        except yaml.YAMLError as error:
            problems.append(_marked(name, error))
        except RecursionError:
            problems.append(f"{name}: nested too deeply")
    problems += _contradictions(given)
    if problems:
        raise WrongFiles(problems)
    if not given:
        raise WrongFiles(["there is no document in it"])
    return given


def _texts(sources: Iterable[str]) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source == STDIN:
            yield "<stdin>", _text("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1))
            continue
        path = Path(source)
        files = sorted(_inside(path)) if path.is_dir() else [path]
        if not files:
            raise WrongFiles([f"{source}: no file that ends in {', '.join(sorted(SUFFIXES))}"])
        for file in files:
            yield str(file), _text(str(file), _content(file))


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a NUL in it
        raise WrongFiles([f"{file}: cannot be read: {why(error)}"]) from error


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise WrongFiles([f"{name}: is larger than {MAX_BYTES:,} bytes"])
    try:
        return unmarked(content, name).decode()
    except ConfigurationError as error:
        raise WrongFiles([str(error)]) from error
    except UnicodeDecodeError as error:
        raise WrongFiles([f"{name}: is not UTF-8: {error}"]) from error


def _inside(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and path.is_file() and not hidden:
            yield path


def _documents(name: str, text: str, problems: list[str]) -> Iterator[Given]:
    loader = _Loader(_plain(text))
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # noqa: S101 - check_node has just said so
            value = loader.construct_document(node)
            if value is None:
                continue  # nothing between two `---`
            place = f"{name}:{node.start_mark.line + 1}"
            try:
                yield Given(_parsed(value), place)
            except ValidationError as error:
                problems += _located(name, node, error)
    finally:
        loader.dispose()


def _plain(text: str) -> str:
    """Return JSON without the tabs and escapes that YAML does not accept."""
    if text.lstrip()[:1] not in {"{", "["}:
        return text
    try:
        json.loads(text)
    except ValueError:
        return text
    return _PAIR.sub(lambda pair: str(json.loads(f'"{pair[0]}"')), text.replace("\t", " "))


def _parsed(value: Any) -> Policy:
    if isinstance(value, dict):
        value = {name: content for name, content in value.items() if name != "version"}
    return parse_policy(value)


def _marked(name: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{name}:{error.problem_mark.line + 1}: {error.problem}"
    return f"{name}: {' '.join(str(error).split())}"


def _located(name: str, node: yaml.Node, error: ValidationError) -> Iterator[str]:
    for path, said in problems_of(error):
        field = ".".join(map(str, path))
        yield f"{name}:{_line(node, path)}: {field + ': ' if field else ''}{said}"


def _line(node: yaml.Node, path: Loc) -> int:
    """Return the line of a field, or of the closest field around it."""
    line = node.start_mark.line
    for part in path:
        found = _child(node, part)
        if found is None:
            continue  # the name of a type, which pydantic puts between
        line, node = found
    return line + 1


def _child(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def _contradictions(given: list[Given]) -> Iterator[str]:
    seen: dict[str, Given] = {}
    for one in given:
        other = seen.setdefault(one.policy.key, one)
        if other is not one:
            yield f"{one.place}: {one.policy.key} stands at {other.place} too"
    for n, one in enumerate(given):
        for other in given[:n]:
            if any(ties(one.policy, [other.policy])):
                yield (
                    f"{one.place}: {one.policy.key} and {other.policy.key} ({other.place}) are "
                    "equally specific and can match the same task"
                )
