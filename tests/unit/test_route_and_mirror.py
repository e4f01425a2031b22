"""`maniple_dispatcher.pipeline`: variants, mirrors, and what a limit is divided by."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maniple.messages import Envelope
from maniple_dispatcher.pipeline.mirror import mirrored
from maniple_dispatcher.pipeline.rate_limit import rate_limit_of
from maniple_dispatcher.pipeline.route import route_of
from maniple_policies import parse_policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def envelope(number: int = 0, **fields: Any) -> Envelope:
    given = {"id": f"task-{number}", "capability": "text.stats", "lane": "text.stats", **fields}
    return Envelope(submitted_at=NOW, deadline=NOW + timedelta(days=1), **given)


def policy(kind: str, spec: dict[str, Any], **more: Any) -> Any:
    return parse_policy({"kind": kind, "name": "it", "version": 3, "spec": spec, **more})


def canary(percent: float, **spec: Any) -> Any:
    variants = [{"variant": "canary", "weight": percent}, {"weight": 100 - percent}]
    return policy("route", {"variants": variants, **spec})


def test_one_percent_of_a_hundred_thousand_is_one_percent() -> None:
    lanes = Counter(route_of(canary(1), envelope(n)) for n in range(100_000))
    assert lanes["text.stats@canary"] == pytest.approx(1000, abs=300)
    assert lanes.total() == lanes["text.stats"] + lanes["text.stats@canary"]


def test_who_is_on_the_canary_stays_there_when_it_grows() -> None:
    on_five = {n for n in range(2000) if route_of(canary(5), envelope(n)) != "text.stats"}
    on_ten = {n for n in range(2000) if route_of(canary(10), envelope(n)) != "text.stats"}
    assert on_five < on_ten


@pytest.mark.parametrize(
    ("sticky", "fields"),
    [
        ("tenant", {"tenant": "acme"}),
        ("affinity", {"affinity": "acme"}),
        ("label:user", {"labels": {"user": "acme"}}),
    ],
)
def test_what_sticks_together_goes_one_way(sticky: str, fields: dict[str, Any]) -> None:
    lanes = {route_of(canary(50, sticky=sticky), envelope(n, **fields)) for n in range(50)}
    assert len(lanes) == 1


def test_without_its_label_a_task_goes_by_its_id() -> None:
    lanes = {route_of(canary(50, sticky="label:user"), envelope(n)) for n in range(50)}
    assert len(lanes) == 2


def test_a_mirrored_copy_is_a_task_that_nobody_waits_for() -> None:
    mirror = policy("mirror", {"variant": "shadow", "percent": 100})
    original = envelope(7, reply_to="amq.gen-x", correlation_id="7", affinity="a", bulkhead="b")
    copy = mirrored(original, mirror, NOW)
    assert copy is not None
    assert (copy.id, copy.mirror_of, copy.lane) == ("task-7~mirror", "task-7", "text.stats@shadow")
    assert (copy.reply_to, copy.affinity, copy.bulkhead, copy.max_attempts) == (None, None, None, 1)
    assert copy.policies == {"mirror/it": 3}
    assert copy.deadline == NOW + timedelta(minutes=5)


def test_the_id_of_a_copy_is_never_too_long() -> None:
    mirror = policy("mirror", {"variant": "shadow", "percent": 100})
    copies = [mirrored(envelope(id="x" * 127 + end), mirror, NOW) for end in "ab"]
    assert len({copy.id for copy in copies if copy and len(copy.id) <= 128}) == 2


def test_a_share_of_the_tasks_is_mirrored() -> None:
    mirror = policy("mirror", {"variant": "shadow", "percent": 10})
    copies = [n for n in range(10_000) if mirrored(envelope(n), mirror, NOW)]
    assert len(copies) == pytest.approx(1000, rel=0.1)


def test_a_limit_is_divided_by_what_it_says() -> None:
    limit = policy("rate_limit", {"limit": 5, "per": ["tenant", "label:user"]})
    keys = {
        rate_limit_of(limit, envelope(tenant=tenant, labels={"user": user})).key
        for tenant in "ab"
        for user in "xy"
    }
    assert len(keys) == 4
    assert rate_limit_of(limit, envelope()).key == rate_limit_of(limit, envelope(1)).key


def test_those_who_have_a_version_early_have_a_bucket_of_their_own() -> None:
    whole = policy("rate_limit", {"limit": 5})
    early = policy("rate_limit", {"limit": 9}, rollout={"percent": 5})
    assert rate_limit_of(whole, envelope()).key != rate_limit_of(early, envelope()).key
