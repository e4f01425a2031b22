"""`maniple policy` against a running policy service, and the example documents."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from consul_server import own_consul
from ending import launched
from local_servers import LocalServers
from maniple_cli.contract.schemas import message_schemas
from maniple_policies import KINDS
from paths import ROOT
from policy_services import policy_service

EXAMPLES = ROOT / "examples" / "policies"
TEXT = "kind: timeout\nname: text\nmatch: {{capability: text.*}}\nspec: {{seconds: {}}}\n"


class Shell:
    """Runs `maniple policy …`."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._url = url
        self._in, self._out = process.stdin, process.stdout

    async def run(self, *arguments: str, given: str = "") -> tuple[int, str, str]:
        words = ["policy", *arguments, "--broker-url", self._url]
        self._in.write(json.dumps([words, given]).encode() + b"\n")
        code, out, err = json.loads(await self._out.readline())
        return code, out, err

    async def json(self, *arguments: str, given: str = "") -> Any:
        code, out, err = await self.run(*arguments, "--json", given=given)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def shell(servers: LocalServers, tmp_path: Path) -> AsyncIterator[Shell]:
    """A command line, and a policy service with a Consul of its own."""
    running = launched(
        *(sys.executable, str(ROOT / "tests" / "support" / "command_shell.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
        cwd=tmp_path,
    )
    async with (
        running as process,
        own_consul(tmp_path) as consul,
        policy_service(servers.rabbitmq, consul, tmp_path / "policy"),
    ):
        yield Shell(servers.rabbitmq.url("operator"), process)


def examples() -> list[dict[str, Any]]:
    files = sorted(EXAMPLES.glob("*.yaml"))
    # Plain YAML 1.1, as most programs read it, takes `on` for a boolean.
    texts = [file.read_text().replace("\n  on:", '\n  "on":') for file in files]
    return [document for text in texts for document in yaml.safe_load_all(text)]


async def test_the_examples_have_every_kind_and_are_applied(shell: Shell) -> None:
    written = {f"{one['kind']}/{one['name']}" for one in examples()}
    assert {key.partition("/")[0] for key in written} == set(KINDS)
    planned = await shell.json("apply", str(EXAMPLES), "--dry-run")
    assert {one["changed"] for one in planned["applied"]} == {True}
    assert await shell.json("list") == []
    code, out, err = await shell.run("apply", str(EXAMPLES), "--reason", "the examples")
    assert (code, err) == (0, "")
    assert out.count(": is now version 1\n") == len(written)
    listed = await shell.json("list")
    assert {f"{one['policy']['kind']}/{one['policy']['name']}" for one in listed} == written
    assert {one["reason"] for one in listed} == {"the examples"}
    assert all("@" in one["author"] for one in listed)
    code, out, _ = await shell.run("apply", str(EXAMPLES))
    assert (code, out.count(": unchanged at version 1\n")) == (0, len(written))


def test_the_examples_fit_the_published_schema() -> None:
    validator = Draft202012Validator(message_schemas()["Policy"])
    found = list(examples())
    assert found
    assert [error.message for one in found for error in validator.iter_errors(one)] == []


async def test_a_policy_goes_through_its_life_by_command(shell: Shell) -> None:
    assert (await shell.run("apply", "-", given=TEXT.format(30)))[:2] == (
        0,
        "timeout/text: is now version 1\n",
    )
    code, out, _ = await shell.run("apply", "-", "--dry-run", given=TEXT.format(60))
    assert (code, "-  seconds: 30.0" in out, "would become version 2" in out) == (0, True, True)
    changed = await shell.json("apply", "-", "-r", "slow", "--expect", "1", given=TEXT.format(60))
    assert changed["applied"][0]["policy"]["version"] == 2
    code, out, _ = await shell.run("get", "timeout", "text")
    assert yaml.safe_load(out) == yaml.safe_load(TEXT.format(60))
    code, out, _ = await shell.run("diff", "timeout/text")
    assert out.startswith("--- timeout/text version 1\n+++ timeout/text version 2\n")
    code, out, _ = await shell.run("history", "timeout/text")
    assert [line.split(",")[0] for line in out.splitlines() if line[0] != " "] == [
        "version 2",
        "version 1",
    ]
    assert ": slow\n" in out
    assert (await shell.run("rollback", "timeout/text", "--to", "1"))[1] == (
        "timeout/text: is now version 3\n"
    )
    assert (await shell.run("delete", "timeout/text"))[1] == (
        "timeout/text: is now version 4, deleted\n"
    )
    assert (await shell.run("list"))[2] == "maniple: no policies are in force\n"


async def test_what_cannot_be_done_is_one_line_and_exit_code_1(shell: Shell) -> None:
    await shell.run("apply", "-", given=TEXT.format(30))
    tie = TEXT.format(1).replace("name: text", "name: other")
    for arguments, given, said in (
        (("apply", "-"), tie, "timeout/other and timeout/text are equally specific"),
        (("apply", "-", "--expect", "0"), TEXT.format(1), "is at version 1, not at 0"),
        (("get", "timeout/nothing"), "", "there is no policy timeout/nothing"),
        (("rollback", "timeout/text", "--to", "7"), "", "has no version 7"),
    ):
        code, out, err = await shell.run(*arguments, given=given)
        assert (code, out, said in err, err.count("\n")) == (1, "", True, 1), err


async def test_of_a_folder_with_one_wrong_document_nothing_is_applied(
    shell: Shell, tmp_path: Path
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(TEXT.format(1))
    (folder / "b.yaml").write_text(TEXT.format(0).replace("name: text", "name: b"))
    code, out, err = await shell.run("apply", "policies")
    assert (code, out) == (2, "")
    assert err == "maniple: policies/b.yaml:4: spec.seconds: Input should be greater than 0\n"
    assert await shell.json("list") == []


async def test_explain_and_status_are_shown(shell: Shell) -> None:
    more = "---\nkind: timeout\nname: all\nspec: {seconds: 5}\n"
    await shell.run("apply", "-", given=TEXT.format(30) + more)
    asked = ("explain", "--capability", "text.stats", "--tenant", "acme", "--label", "a=b")
    explained = await shell.json(*asked, "--task", "1")
    assert [(one["policy"], one["verdict"]) for one in explained] == [
        ("timeout/text", "applies"),
        ("timeout/all", "loses"),
    ]
    code, out, err = await shell.run(*asked)
    assert (code, err, "seconds=30.0" in out) == (0, "", True)
    found = await shell.json("status")
    assert [(one["policy"], one["version"]) for one in found["policies"]] == [
        ("timeout/all", 1),
        ("timeout/text", 1),
    ]
    code, out, _ = await shell.run("status")
    assert (code, "timeout/text" in out) == (0, True)
