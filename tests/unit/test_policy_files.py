"""Policy files: what is read from them, and the line of what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maniple_cli.commands.policy import common
from maniple_cli.commands.policy.files import WrongFiles, read_all
from maniple_cli.main import build
from maniple_policies import KINDS

GOOD = "kind: timeout\nname: slow\nmatch: {capability: text.*}\nspec: {seconds: 3}\n"


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(WrongFiles) as wrong:
        read_all([str(path)])
    return [problem.replace(str(path), path.name) for problem in wrong.value.problems]


def only(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    (one,) = read_all([str(path)])
    return one.policy.model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace("3", "-1"), "4: spec.seconds: Input should be greater than 0"),
        (GOOD + "---\n" + GOOD.replace("3", "x").replace("slow", "b"), "9: spec.seconds: Input"),
        ("# first\n" + GOOD + "nmae: x\n", "6: nmae: Extra inputs are not permitted"),
        (GOOD.replace("timeout", "wish"), f"1: kind: is none of {', '.join(KINDS)}"),
        ("\n\nname: x\n", "3: kind: Field required"),
        ("kind: timeout\nname: x\n", "1: spec: Field required"),
        (
            "kind: route\nname: r\nspec:\n  variants:\n  - weight: 1\n  - {weight: 1, variant: U}",
            "6: spec.variants.1.variant: String should match",
        ),
        ("kind: rate_limit\nname: r\nspec:\n  limit: 1\n  over: degrade\n", "3: spec: variant is"),
        ("- 1\n", "1: Input should be"),
        (GOOD + "  bad\n: [\n", "5: "),
        (GOOD + "name: again\n", "5: 'name' stands there twice"),
        (
            "kind: timeout\nname: x\nmatch:\n  labels: {1: a}\nspec: {seconds: 1}\n",
            "4: a name must",
        ),
        ("", "there is no document"),
        ("[" * 5000, ": nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (told,) = problems(tmp_path / "p.yaml", text)
    assert problem in told
    assert "\n" not in told


def test_all_problems_of_all_documents_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("3", "0") + "---\n" + GOOD.replace("slow", "NOT A NAME")
    assert [problem[:9] for problem in problems(tmp_path / "p.yaml", text)] == [
        "p.yaml:4:",
        "p.yaml:7:",
    ]


def test_yaml_means_what_json_would_mean(tmp_path: Path) -> None:
    text = (
        "kind: fallback\nname: busy\nversion: 7\nspec:\n  on: [rate_limited]\n"
        "  value: {day: 2026-11-22, word: yes, big: 1e3, whole: 12, flag: true, none: null}\n"
    )
    read = only(tmp_path / "p.yaml", text)
    assert read["version"] == 0
    assert read["spec"]["on"] == ["rate_limited"]
    assert read["spec"]["value"] == {
        "day": "2026-11-22", "word": "yes", "big": 1000.0, "whole": 12, "flag": True, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_whatever_its_form(tmp_path: Path, indent: str | int | None) -> None:
    value = {"a": [1e30, "\t/\\", "\N{GRINNING FACE}"], "b": "\\ud83d"}
    document = {"kind": "fallback", "name": "busy", "spec": {"value": value}}
    read = only(tmp_path / "p.json", json.dumps(document, indent=indent))
    assert read["spec"]["value"] == value


def test_a_folder_is_read_by_name_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/two.yml", "a.yaml", ".git/x.yaml", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        key = Path(name).stem
        (tmp_path / name).write_text(GOOD.replace("slow", key).replace("text", key))
    assert [one.policy.name for one in read_all([str(tmp_path)])] == ["a", "two"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongFiles, match="no file that ends in"):
        read_all([str(tmp_path / "empty")])


def test_documents_that_contradict_each_other_are_told_with_both_places(tmp_path: Path) -> None:
    (tie,) = problems(tmp_path / "p.yaml", GOOD + "---\n" + GOOD.replace("slow", "other"))
    assert tie == (
        "p.yaml:6: timeout/other and timeout/slow (p.yaml:1) are equally specific and can match "
        "the same task"
    )
    (twice,) = problems(tmp_path / "p.yaml", GOOD + "---\n" + GOOD)
    assert twice == "p.yaml:6: timeout/slow stands at p.yaml:1 too"


def invoke(*arguments: str, given: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(build(), ["policy", *arguments], input=given)
    assert "Traceback" not in result.output
    return result.exit_code, result.stderr


def test_a_wrong_file_ends_apply_with_2_before_anybody_is_asked() -> None:
    code, err = invoke("apply", "-", given=GOOD.replace("3", "0"))
    assert (code, err) == (
        2,
        "maniple: <stdin>:4: spec.seconds: Input should be greater than 0\n",
    )


def test_a_truth_in_place_of_a_number_is_told_with_its_line() -> None:
    code, err = invoke("apply", "-", given=GOOD.replace("3", "\n  {max: true}"))
    assert (code, err) == (
        2,
        "maniple: <stdin>:5: spec.seconds.max: Input should be a valid number\n",
    )


@pytest.mark.parametrize("command", ["list", "status"])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_consul_holds_and_nobody_can_use_is_told(
    command: str, *, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: dict[str, Any] = {
        "policies": [],
        "processes": [],
        "consul": True,
        "listening": 60.0,
        "invalid": {"retry/x": "spec.attempts: is wrong"},
    }

    async def ask(*_: object) -> dict[str, Any]:
        return answer

    monkeypatch.setattr(common, "ask", ask)
    url = ("--broker-url", "amqp://test@memory/dev")
    more = ["--json"] if as_json else []
    result = CliRunner().invoke(build(), ["policy", command, *more, *url])
    assert result.exit_code == 0
    if as_json and command == "status":  # it stands in what is printed
        assert json.loads(result.stdout)["invalid"] == answer["invalid"]
        return
    assert (
        "warning: in Consul, retry/x is not usable: spec.attempts: is wrong; apply a right version"
        in result.stderr
    )
    del answer["invalid"]  # an older policy service does not tell
    assert CliRunner().invoke(build(), ["policy", "list", *url]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "timeout"), 2),
        (("get", "wish/x"), 2),
        (("get", "timeout", "x", "y"), 2),
        (("rollback", "timeout/x"), 2),
        (("explain",), 2),
        (("explain", "-c", "a", "--label", "x"), 2),
        (("apply", "/nowhere/at.all"), 2),
        (("get", "timeout", "x", "--broker-url", "amqp://guest:guest@127.0.0.1:1/dev"), 3),
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int) -> None:
    found, err = invoke(*arguments)
    assert (found, bool(err)) == (code, True)


def test_expect_is_for_a_single_document() -> None:
    other = GOOD.replace("slow", "other").replace("text", "image")
    code, err = invoke("apply", "-", "--expect", "1", given=GOOD + "---\n" + other)
    assert (code, "single document" in err) == (2, True)
