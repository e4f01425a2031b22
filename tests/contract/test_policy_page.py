"""docs/policies.md tells every kind, field, operation and refusal that the code has."""

import re
from typing import Any

import pytest

from maniple_policies import KINDS, Match
from maniple_policies.policy import Rollout
from maniple_policy import errors, handlers
from paths import ROOT

PAGE = (ROOT / "docs" / "policies.md").read_text()


def section(heading: str) -> str:
    _, found, rest = PAGE.partition(f"\n{heading}\n")
    assert found, f"no section {heading!r}"
    # A comment in an example begins with one sharp, a section here with two or more.
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]


def fields(heading: str) -> dict[str, str]:
    """Return the second column of a section's table by the first."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section(heading), re.MULTILINE))


def required(model: Any) -> dict[str, bool]:
    return {name: field.is_required() for name, field in model.model_fields.items()}


def told(heading: str) -> dict[str, bool]:
    return {name: default == "required" for name, default in fields(heading).items()}


def test_the_kinds_stand_in_the_order_of_their_evaluation() -> None:
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_kind_is_told(kind: str) -> None:
    spec = KINDS[kind].model_fields["spec"].annotation
    assert spec is not None
    assert told(f"### {kind}") == required(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_examples_that_are_files(kind: str) -> None:
    shown = re.findall(r"^```yaml\n(.+?)^```$", section(f"### {kind}"), re.MULTILINE | re.DOTALL)
    files = sorted((ROOT / "examples" / "policies").glob(f"{kind}*.yaml"))
    assert shown == [file.read_text() for file in files]
    assert shown


def test_every_selector_and_the_rollout_are_told() -> None:
    assert list(fields("## Which tasks: `match`")) == list(Match.model_fields)
    assert told("## For a share only: `rollout`") == required(Rollout)


def test_every_operation_and_every_refusal_is_named() -> None:
    source = (ROOT / "services/policy/maniple_policy/consumers.py").read_text()
    operations = set(re.findall(r'"(policy\.\w+)":', source))
    assert operations
    raised = "".join(
        (ROOT / f"services/policy/maniple_policy/{module.__name__.split('.')[1]}.py").read_text()
        for module in (errors, handlers)
    )
    codes = set(re.findall(r'__init__\(\s*"(\w+)"|RequestFailed\("(\w+)"', raised))
    names = operations | {one or two for one, two in codes}
    assert len(names) > len(operations) + 5
    assert names <= set(re.findall(r"`([\w.]+)`", section("## For programs")))
