"""What the policy service remembers of requests, and how those that come again are answered."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from maniple.errors import RequestFailed
from maniple_policy.consumers import consumers_of
from maniple_policy.domain.changes import Step, Wanted, steps
from maniple_policy.domain.records import HISTORY_KEPT, succeed
from maniple_policy.domain.request_log import KEPT, KEPT_BYTES, RequestLog
from maniple_policy.handlers import PolicyHandlers
from maniple_policy.queries import PolicyQueries
from maniple_policy.store import Store
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.control.amqp_messages import IncomingMessage
from maniple_runtime.control.messages import Request, Response
from maniple_runtime.control.requests import Responder, answer
from maniple_runtime.events import MAX_REVISION, PolicyApplied, PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.telemetry import Metrics
from policy_records import KEY, NAME, NOW, KeptKeys, document, record, revision

WHICH = {"kind": "timeout", "name": NAME}


NOTHING: Any = None


def a_store(folder: Path) -> Store:
    return Store(
        NOTHING,
        "maniple/dev",
        folder / "policies.json",
        health=Health("policy", "one"),
        metrics=Metrics(),
        announce=NOTHING,
        now=lambda: NOW,
    )


def test_a_report_of_a_revision_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    answers = PolicyQueries(store, NOTHING, lambda: 0.0)
    for instance, claimed in (("forged", MAX_REVISION), ("true", 7)):
        answers.on_applied(
            PolicyApplied(
                at=NOW,
                service="dispatcher",
                instance=instance,
                digest="d",
                revision=claimed,
                versions={},
            )
        )
    assert (store.newest, answers.reports.instances) == (7, {"true"})


async def test_what_consul_holds_and_nobody_can_use_is_listed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    await store.sync([CatalogEntry("maniple/dev/policies/retry/x", b"{", 1)])
    listed = await PolicyQueries(store, NOTHING, lambda: 0.0).list(NOTHING)
    assert listed["policies"] == []
    assert "is no JSON" in listed["invalid"]["retry/x"]


class Replicas:
    """Two policy services over one Consul."""

    def __init__(self, folder: Path) -> None:
        self.consul = KeptKeys()
        self.routes = [self._routes(folder / name) for name in ("one", "two")]
        self._sent = 0

    def _routes(self, path: Path) -> Any:
        async def announce(_: PolicyChanged) -> None:
            return

        async def known() -> None:
            return

        consul: Any = self.consul
        fleet: Any = SimpleNamespace(known=known)
        store = Store(
            consul,
            "maniple/dev",
            path,
            health=Health("policy", path.name),
            metrics=Metrics(),
            announce=announce,
            now=lambda: NOW,
        )
        answers = PolicyQueries(store, fleet, lambda: 0.0)
        return consumers_of(PolicyHandlers(answers, lambda: NOW), answers).requests

    def request(self, op: str, **body: Any) -> IncomingMessage:
        """A request with ids of its own."""
        self._sent += 1
        question = Request(op=f"policy.{op}", body=body).to_json()
        correlation_id, message_id = f"c{self._sent}", f"m{self._sent}"
        return IncomingMessage(question, Request.TYPE, "r", correlation_id, message_id)

    async def deliver(self, arrival: IncomingMessage, replica: int = 0) -> dict[str, Any]:
        """Return the answer to a request; raises `RequestFailed`."""
        operations: dict[str, Responder] = self.routes[replica]
        told = Response.from_json(await answer(operations, arrival, structlog.get_logger()))
        if told.error is not None:
            raise RequestFailed(told.error.code, told.error.message)
        return told.body

    async def again(self, arrival: IncomingMessage) -> dict[str, Any]:
        """Deliver it again, to the other replica."""
        return await self.deliver(replace(arrival, redelivered=True), 1)

    async def apply(self, *seconds: float) -> None:
        """Have somebody else make versions."""
        for one in seconds:
            await self.deliver(self.request("apply", document=document("t", one)))

    async def version(self) -> int:
        listed = await self.deliver(self.request("history", **WHICH))
        return int(listed["revisions"][0]["policy"]["version"])


def essence(told: dict[str, Any]) -> tuple[int, bool, int]:
    return told["policy"]["version"], told["changed"], told["replaces"]


def nameless(arrival: IncomingMessage) -> IncomingMessage:
    """As a client sends it that sets no message id."""
    return replace(arrival, message_id=None)


def test_a_record_is_told_as_it_was() -> None:
    now = record(1, 2, 3)
    assert now.as_of(3) == now
    assert now.as_of(2) == now.before == record(1, 2)
    assert now.as_of(1) == record(1)
    assert (now.as_of(4), record(1).before) == (None, None)


def test_what_a_request_has_done_is_its_step_whatever_was_done_since() -> None:
    before = record(1, 2)
    (made,) = steps({KEY: before}, [Wanted(revision(3))], {})
    (same,) = steps({KEY: before}, [Wanted(revision(2))], {})
    memory = RequestLog().after("r1", [KEY], {KEY: made}).after("r2", [KEY], {KEY: same})
    memory = RequestLog.read(memory.to_value("x"))
    now = {KEY: succeed(made.record, revision(9))}
    assert memory.steps("r1", [KEY], now) == {KEY: made}
    (told,) = memory.steps("r2", [KEY], now).values()
    assert (told.changed, told.record) == (False, before)
    assert memory.steps("r3", [KEY], now) == memory.steps("r1", [KEY], {}) == {}


def test_what_a_request_has_done_in_part_is_remembered_by_place() -> None:
    made = {f"timeout/{name}": Step(None, record(1, 2)) for name in "ac"}
    memory = RequestLog().after("r1", ["timeout/a", "timeout/b", "timeout/c"], made)
    assert memory.ends == {"r1": (2, 0, 2)}


def test_the_latest_requests_are_remembered_and_their_room_is_bounded() -> None:
    memory = RequestLog()
    for n in range(KEPT + 50):
        memory = memory.after(f"r{n}", [KEY], {KEY: Step(None, record(1))})
    kept = RequestLog.read(memory.to_value("x"))
    assert list(kept.ends) == [f"r{n}" for n in range(50, KEPT + 50)]
    large = RequestLog({f"{n:032}": (1000,) * 1000 for n in range(100)})
    assert len(large.to_value("x")) < KEPT_BYTES + 100
    assert list(RequestLog.read(large.to_value("x")).ends)[-1] == f"{99:032}"
    assert list(RequestLog({"small": (1,), "huge": (1,) * KEPT_BYTES}).ends) == ["small", "huge"]
    beside = RequestLog({"small": (1,), "huge": (1,) * KEPT_BYTES}).to_value("x")
    assert list(RequestLog.read(beside).ends) == ["small"]


def test_a_guard_of_another_release_says_nothing() -> None:
    for value in (b"", b"5f3a9c0d11223344", b'{"token": "x", "requests": {"r": [1.5]}}', b"[]"):
        assert RequestLog.read(value) == RequestLog()
    newer = b'{"token": "x", "requests": {"r": [1, -2, 0]}, "more": 1}'
    assert RequestLog.read(newer).ends == {"r": (1, -2, 0)}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("apply", {"document": document("t", 7), "expect": 2}),
        ("delete", WHICH),
        ("rollback", {**WHICH, "to": 1}),
    ],
)
async def test_a_change_that_comes_again_is_told_after_anothers_too(
    op: str, body: dict[str, Any], named: bool, tmp_path: Path
) -> None:
    both = Replicas(tmp_path)
    await both.apply(1, 2)
    request = both.request(op, **body)
    asked = request if named else nameless(request)
    assert essence(await both.deliver(asked)) == (3, True, 2)
    await both.apply(9)
    assert essence(await both.again(asked)) == (3, True, 2)
    assert await both.version() == 4


async def test_what_changed_nothing_changes_nothing_when_it_comes_again(tmp_path: Path) -> None:
    both = Replicas(tmp_path)
    await both.apply(1)
    asked = both.request("apply", document=document("t", 1))
    assert essence(await both.deliver(asked)) == (1, False, 1)
    await both.apply(2)
    assert essence(await both.again(asked)) == (1, False, 1)
    assert await both.version() == 2


async def test_a_rollback_is_told_though_its_target_is_forgotten_since(tmp_path: Path) -> None:
    both = Replicas(tmp_path)
    await both.apply(*(float(n + 1) for n in range(HISTORY_KEPT + 1)))
    asked = both.request("rollback", **WHICH, to=1)
    assert (await both.deliver(asked))["policy"]["version"] == HISTORY_KEPT + 2
    assert (await both.again(asked))["policy"]["version"] == HISTORY_KEPT + 2


async def test_many_documents_at_once_that_come_again_are_told(tmp_path: Path) -> None:
    both = Replicas(tmp_path)
    small = both.request("apply", document=document("t", 1))
    await both.deliver(small)
    many = [document(f"{n}-{'x' * 50}", 1) for n in range(70)]  # more than fit into a transaction
    asked = both.request("apply_all", documents=many)
    await both.deliver(asked)
    changed = both.request("apply_all", documents=[document("t", 2), document(many[0]["name"], 2)])
    await both.deliver(changed)
    told = (await both.again(asked))["applied"]
    assert {(one["policy"]["version"], one["changed"]) for one in told} == {(1, True)}
    assert (await both.again(small))["policy"]["version"] == 1
    assert await both.version() == 2


async def test_ids_that_a_sender_uses_twice_hide_no_request(tmp_path: Path) -> None:
    both = Replicas(tmp_path)
    asked = nameless(both.request("apply", document=document("t", 1)))
    for version in (1, 3, 5):
        assert essence(await both.deliver(asked)) == (version, True, version - 1)
        await both.apply(2)
    assert essence(await both.again(asked)) == (5, True, 4)


async def test_without_any_id_nothing_is_remembered(tmp_path: Path) -> None:
    both = Replicas(tmp_path)
    asked = replace(both.request("apply", document=document("t", 1)), message_id=None)
    asked = replace(asked, correlation_id=None)
    await both.deliver(asked)
    value = json.loads(both.consul.keys["maniple/dev/policies/.guard"].value)
    assert len(value["requests"]) == 1  # of this commit, in case that its answer was lost
    before = both.consul.index
    await both.deliver(asked)
    assert both.consul.index == before
