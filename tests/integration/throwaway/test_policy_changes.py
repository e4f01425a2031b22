"""Changing policies: ties, many at once, dry runs, history, rollback, environments."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers, SharedServers
from maniple.errors import RequestFailed
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.messages import Request
from policy_records import document
from policy_services import Operator, asking, policy_key, policy_service
from waiting import wait_until


async def test_a_tie_is_refused_with_both_names_and_nothing_is_stored(operator: Operator) -> None:
    await operator.ask("apply", document=document("a", capability="x.*"))
    refused = await operator.refused("apply", document=document("b", capability="*.y"))
    assert refused.code == "policy_tie"
    assert "timeout/b and timeout/a" in refused.message
    wanted = [document("c"), document("d", capability="x.*")]
    assert (await operator.refused("apply_all", documents=wanted)).code == "policy_tie"
    assert await operator.versions() == {"a": 1}


async def test_of_several_documents_all_are_stored_or_none(operator: Operator) -> None:
    wrong = [document("a"), document("b", -1)]
    refused = await operator.refused("apply_all", documents=wrong)
    assert (refused.code, "document 2: spec.seconds" in refused.message) == ("invalid_policy", True)
    assert await operator.versions() == {}
    many = [document(f"p{n}") for n in range(130)]  # more than fit into one transaction
    done = await operator.ask("apply_all", documents=many, author="ann")
    assert [one["policy"]["version"] for one in done["applied"]] == [1] * 130
    again = await operator.ask("apply_all", documents=[*many[1:], document("p0", 9)])
    assert [one["changed"] for one in again["applied"]] == [False] * 129 + [True]


async def test_documents_can_change_places(operator: Operator) -> None:
    first = [document("a", capability="x.*"), document("b", capability="y.*")]
    second = [document("a", capability="y.*"), document("b", capability="x.*")]
    await operator.ask("apply_all", documents=first)
    assert (await operator.refused("apply", document=second[0])).code == "policy_tie"
    await operator.ask("apply_all", documents=second)
    assert await operator.versions() == {"a": 2, "b": 2}


async def test_of_tied_documents_applied_at_once_on_two_replicas_one_is_stored(
    servers: LocalServers, consul: OwnConsul, operator: Operator, tmp_path: Path
) -> None:
    async with policy_service(servers.rabbitmq, consul, tmp_path / "two"):
        for turn in range(5):
            tied = [document(f"p{turn}-{n}", capability=f"x{turn}.*") for n in range(6)]
            done = await asyncio.gather(
                *(operator.ask("apply", document=one) for one in tied), return_exceptions=True
            )
            refused = [one for one in done if isinstance(one, RequestFailed)]
            assert [one.code for one in refused] == ["policy_tie"] * 5
            assert sum(isinstance(one, dict) for one in done) == 1


async def test_no_update_is_lost_among_many_writers_who_say_what_they_replace(
    servers: LocalServers, consul: OwnConsul, operator: Operator, tmp_path: Path
) -> None:
    async def add_one() -> None:
        while True:
            found = (await operator.ask("get", kind="timeout", name="sum"))["policy"]
            wanted = document("sum", found["spec"]["seconds"] + 1)
            try:
                await operator.ask("apply", document=wanted, expect=found["version"])
            except RequestFailed as error:
                assert error.code == "conflict"  # noqa: PT017 - any other ends the test
            else:
                return

    await operator.apply("sum", 1)
    async with policy_service(servers.rabbitmq, consul, tmp_path / "two"):
        await asyncio.gather(*(add_one() for _ in range(10)))
        found = await operator.ask("get", kind="timeout", name="sum")
    assert (found["policy"]["spec"]["seconds"], found["policy"]["version"]) == (11, 11)


async def test_a_tie_made_in_consul_is_reported_and_the_last_good_one_stays(
    servers: LocalServers, operator: Operator, consul: OwnConsul
) -> None:
    await operator.ask("apply", document=document("a", capability="x.*"))
    await operator.ask("apply", document=document("b", capability="y.*"))

    async def invalid() -> dict[str, str]:
        return dict((await operator.ask("status"))["invalid"])

    with contextlib.closing(Consul(consul.url)) as client:
        await client.kv_put(
            policy_key(servers, "b"), json.dumps(document("b", capability="x.*")).encode()
        )

        async def reported() -> bool:
            return "timeout/b and timeout/a" in (await invalid()).get("timeout/b", "")

        await wait_until(reported)
        assert await operator.versions() == {"a": 1, "b": 1}
        refused = await operator.refused("apply", document=document("c", capability="x.*"))
        assert refused.code == "policy_tie"
        await operator.ask("apply", document=document("b", capability="z.*"))
        assert await invalid() == {}
        assert await operator.versions() == {"a": 1, "b": 2}


async def test_a_dry_run_says_what_would_be_and_stores_nothing(operator: Operator) -> None:
    async def agents(_: Request) -> dict[str, Any]:
        found = {"state": "active", "capabilities": ["t.one", "u.one"], "lanes": ["t.one"]}
        return {"agents": [{"id": "a", **found}, {"id": "b", **found}]}

    await operator.plane.respond("registry", {"agents": agents})
    await operator.apply("t", 3)
    planned = await operator.apply("t", 4, dry_run=True)
    assert (planned["policy"]["version"], planned["changed"], planned["replaces"]) == (2, True, 1)
    assert "-  seconds: 3.0\n+  seconds: 4.0" in planned["diff"]
    assert (planned["touches"], planned["warnings"]) == ({"t.one": 2}, [])
    (nowhere,) = (await operator.apply("v", dry_run=True))["warnings"]
    assert nowhere == "no agent has a capability that matches 'v.*'"
    assert (await operator.refused("apply", document=document("t", 0), dry_run=True)).code
    tie = await operator.refused("apply", document=document("w", capability="t.*"), dry_run=True)
    assert tie.code == "policy_tie"
    gone = await operator.ask("delete", kind="timeout", name="t", dry_run=True)
    assert (gone["deleted"], "+++ nothing" in gone["diff"]) == (True, True)
    assert await operator.versions() == {"t": 1}


async def test_history_tells_who_why_and_what_and_a_rollback_is_a_new_version(
    operator: Operator,
) -> None:
    which = {"kind": "timeout", "name": "t"}
    await operator.apply("t", 3, author="ann", reason="first")
    await operator.apply("t", 4, author="bob")
    back = await operator.ask("rollback", **which, to=1, author="cy")
    assert (back["policy"]["version"], back["policy"]["spec"]["seconds"]) == (3, 3.0)
    await operator.ask("delete", **which, author="dan", reason="not needed")
    revisions = (await operator.ask("history", **which))["revisions"]
    assert [
        (r["policy"]["version"], r["author"], r["reason"], r["deleted"]) for r in revisions
    ] == [
        (4, "dan", "not needed", True),
        (3, "cy", "rollback to version 1", False),
        (2, "bob", "", False),
        (1, "ann", "first", False),
    ]
    assert "+  seconds: 3.0" in revisions[1]["diff"]
    assert (await operator.ask("diff", **which, before=1, after=3))["diff"] == ""
    assert (await operator.ask("diff", **which))["before"] == 3
    for version in (4, 9):  # a tombstone, and what never was
        assert (await operator.refused("rollback", **which, to=version)).code == "unknown_version"
    restored = await operator.ask("rollback", **which, to=2)
    assert (restored["policy"]["version"], restored["policy"]["spec"]["seconds"]) == (5, 4.0)
    assert (await operator.refused("rollback", **which, to=1, expect=4)).code == "conflict"


async def test_a_rollback_that_would_be_a_tie_is_refused(operator: Operator) -> None:
    await operator.ask("apply", document=document("a", capability="x.*"))
    await operator.ask("apply", document=document("a", capability="y.*"))
    await operator.ask("apply", document=document("b", capability="x.*"))
    refused = await operator.refused("rollback", kind="timeout", name="a", to=1)
    assert refused.code == "policy_tie"
    assert await operator.versions() == {"a": 2, "b": 1}


async def test_explain_is_answered_from_what_is_in_force(operator: Operator) -> None:
    await operator.ask("apply", document=document("all", tenant="*"))
    await operator.apply("t")
    found = await operator.ask("explain", capability="t.one", labels={"a": "b"}, task="1")
    assert [(d["policy"], d["verdict"]) for d in found["documents"]] == [
        ("timeout/t", "applies"),
        ("timeout/all", "loses"),
    ]


async def test_environments_do_not_see_each_other(
    shared: SharedServers, operator: Operator, consul: OwnConsul, tmp_path: Path
) -> None:
    async with (
        shared.environment("staging") as other,
        policy_service(other.rabbitmq, consul, tmp_path / "staging"),
        asking(other.rabbitmq) as staging,
    ):
        await operator.apply("t", 3)
        await staging.apply("t", 4)
        await staging.apply("u", 5)
        assert await operator.versions() == {"t": 1}
        assert await staging.versions() == {"t": 1, "u": 1}
        await operator.ask("delete", kind="timeout", name="t")
        assert await staging.versions() == {"t": 1, "u": 1}
        await wait_until(lambda: (len(staging.events), len(operator.events)) == (2, 2))
