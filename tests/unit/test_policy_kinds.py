"""The table of the kinds of policy: what follows from it, also for a kind that is new."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from invented_kind import DOCUMENT, PIPELINE, POLICIES, REFUSING, STAGE, declared_in, enforced_in
from maniple_dispatcher.pipeline.stages import ON_LEAVING, STAGES
from maniple_policies import KINDS, Policy, PolicySet, Resolved, parse_policy
from maniple_policies.matching import StrictModel
from product_copy import Copy

SPECS: dict[str, dict[str, Any]] = {
    "route": {"variants": [{"weight": 1}]},
    "rate_limit": {"limit": 1},
    "bulkhead": {"max_in_flight": 1},
    "circuit_breaker": {"consecutive": 1},
    "fallback": {"value": 1},
    "mirror": {"variant": "next", "percent": 100},
    "retry": {"attempts": 1},
    "timeout": {"seconds": 1},
    "ttl": {"seconds": 1},
}
TOLD = f"""
import json
from maniple_cli.contract.schemas import message_schemas
from {POLICIES} import KINDS, PolicySet, Question, explain, parse_policy, reasons_of
from pydantic import ValidationError

policies = PolicySet([parse_policy({DOCUMENT})])
try:
    parse_policy({{"kind": "none", "name": "it", "spec": {{}}}})
except ValidationError as error:
    refused = reasons_of(error)
resolved = policies.resolve("text.stats", "default", {{}})
print(json.dumps({{
    "kinds": list(KINDS),
    "documents": policies.to_json(),
    "mapping": message_schemas()["Policy"]["discriminator"]["mapping"],
    "required": message_schemas()["Policy"]["$defs"]["PausePolicy"]["required"],
    "refused": refused,
    "explained": [one.policy for one in explain(policies.in_force, Question("text.stats"))],
    "guarded": resolved.guarded,
    "versions": resolved.versions,
}}))
"""
BROUGHT = f"""
import asyncio, json
from pipeline_with_fakes import PipelineWithFakes
from work_with_fakes import envelope

async def brought():
    gate = PipelineWithFakes([("pause", {DOCUMENT["spec"]})], None)
    gate.bring(envelope("1"))
    await gate.drain()
    (waits,) = gate.tasks("maniple.delay")
    rest = (waits.not_before - gate.now).total_seconds()
    gate.now = waits.not_before
    await gate.bring_back(waits)
    went = [one.id for one in gate.tasks("maniple.lanes")]
    print(json.dumps([rest, went]))

asyncio.run(brought())
"""
BESIDE = f"""
import asyncio, json
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.messages import DispatcherReport
from pipeline_with_fakes import PipelineWithFakes
from work_with_fakes import envelope

async def brought(limit):
    coordinator = Coordinator("me", LeaseOwner(lambda _: None), 0.0)
    coordinator.on_report(DispatcherReport(dispatcher="me", ready=True), 0.0)
    gate = PipelineWithFakes([("pause", {DOCUMENT["spec"]}), ("rate_limit", limit)], coordinator)
    gate.bring(envelope("1"))
    gate.bring(envelope("2"))
    await gate.drain()
    waiting = gate.tasks("maniple.delay")
    return [round((one.not_before - gate.now).total_seconds()) for one in waiting]

async def all_of_them():
    quick, slow = [{{"limit": 1, "period": seconds, "over": "shape"}} for seconds in (3, 30)]
    print(json.dumps([await brought(quick), await brought(slow)]))

asyncio.run(all_of_them())
"""
REFUSED = f"""
import asyncio, json
from maniple_dispatcher.ingress.arrival import Redelivery
from pipeline_with_fakes import PipelineWithFakes
from work_with_fakes import envelope
from {PIPELINE}.pause import asked

async def brought(before):
    asked.clear()
    gate = PipelineWithFakes([("pause", {DOCUMENT["spec"]})], None)
    gate.bring(envelope("1"), before)
    await gate.drain()
    while not gate.tasks("maniple.lanes"):
        await gate.bring_back(gate.tasks("maniple.delay")[-1])
    return len(asked)

async def all_of_them():
    said = [Redelivery.UNKNOWN, Redelivery.SAID, Redelivery.DELIVERED]
    print(json.dumps([await brought(before) for before in said]))

asyncio.run(all_of_them())
"""


class InventedPolicy(Policy):
    """Of a kind that says nothing of itself."""

    kind: Literal["invented"] = "invented"
    spec: StrictModel = StrictModel()


def test_each_kind_can_be_made_and_is_known_by_its_name() -> None:
    assert list(SPECS) == list(KINDS)
    for kind, spec in SPECS.items():
        policy = parse_policy({"kind": kind, "name": "it", "spec": spec})
        assert (type(policy), policy.kind, policy.key) == (KINDS[kind], kind, f"{kind}/it")


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_decides_does_so_also_where_it_is_the_only_one(kind: str) -> None:
    policy = parse_policy({"kind": kind, "name": "it", "spec": SPECS[kind]})
    resolved = PolicySet([policy]).resolve("text.stats", "default", {})
    assert resolved.policy_of(type(policy)) is policy
    assert resolved.guarded == (kind not in {"fallback", "retry", "timeout", "ttl"})


def test_a_kind_that_says_nothing_of_itself_is_not_passed_by() -> None:
    policy = InventedPolicy(name="it", version=3)
    resolved = Resolved.from_policies(policy)
    assert resolved.guarded
    assert resolved.policy_of(InventedPolicy) is policy
    assert resolved.versions == {"invented/it": 3}


def test_every_kind_that_decides_has_a_stage_and_no_other_has() -> None:
    staged = [stage.kind for stage in STAGES] + [copies.kind for copies in ON_LEAVING]
    assert sorted(map(repr, staged)) == sorted(
        repr(kind) for kind in KINDS.values() if kind.DECIDES
    )


def test_no_set_of_policies_holds_one_of_a_kind_that_is_not_in_the_table() -> None:
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        PolicySet([InventedPolicy(name="it")])


def test_all_else_follows_from_the_table(tmp_path: Path) -> None:
    copy = Copy(tmp_path, POLICIES.split(".", 1)[0])
    declared_in(copy)
    told = copy.ask(TOLD)
    assert told["kinds"] == ["route", "rate_limit", "pause", *list(KINDS)[2:]]
    assert told["documents"][0]["policy"]["spec"] == {"seconds": 7.0}
    assert told["mapping"]["pause"] == "#/$defs/PausePolicy"
    assert told["required"] == ["kind", "name", "spec"]
    assert f"rate_limit, pause, {list(KINDS)[2]}" in told["refused"]
    assert told["explained"] == ["pause/it"]
    assert told["guarded"] is True
    assert told["versions"] == {"pause/it": 0}
    assert len(copy.written) == 2


def test_a_new_kind_is_enforced_where_it_is_the_only_one_with_four_files_written(
    tmp_path: Path,
) -> None:
    copy = Copy(tmp_path, *{POLICIES.split(".", 1)[0], PIPELINE.split(".", 1)[0]})
    declared_in(copy)
    enforced_in(copy)
    assert copy.ask(BROUGHT) == [7, ["1"]]
    assert len(copy.written) == 4


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """Our packages with the invented kind in their table."""
    copy = Copy(tmp_path, *{POLICIES.split(".", 1)[0], PIPELINE.split(".", 1)[0]})
    declared_in(copy)
    return copy


def test_of_two_kinds_that_delay_a_task_both_are_asked_and_the_longer_delay_counts(
    copy: Copy,
) -> None:
    enforced_in(copy, STAGE)
    # The second task waits for its token as well: for 3 seconds, or for 30.
    assert copy.ask(BESIDE) == [[7, 7], [7, 30]]


def test_a_new_kind_that_refuses_is_asked_until_it_lets_the_task_through(copy: Copy) -> None:
    enforced_in(copy, REFUSING)
    # Nor does it help a sender to say that its task was there before; one that was is not asked.
    assert copy.ask(REFUSED) == [8, 8, 0]
