"""What the policy service's store does with an edit that it finds in Consul."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from maniple_policies import parse_policy
from maniple_policy.domain.records import Revision, succeed
from maniple_policy.store import Store
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.events import PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.telemetry import process_metrics
from waiting import wait_until

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DOCUMENT = {"kind": "timeout", "name": "t", "spec": {"seconds": 3}}
EDIT = succeed(None, Revision(policy=parse_policy(DOCUMENT), author="ann", at=NOW))
FOUND = [CatalogEntry("maniple/dev/policies/timeout/t", EDIT.to_json(), 5)]

Announce = Callable[[PolicyChanged], Awaitable[None]]


def store(path: Path, announce: Announce) -> Store:
    consul: Any = None  # what is found has its version already
    health, metrics = Health("policy", "p1"), process_metrics()
    return Store(
        consul,
        "maniple/dev",
        path,
        health=health,
        metrics=metrics,
        announce=announce,
        now=lambda: NOW,
    )


def kept(path: Path) -> list[str]:
    """The names of the policies on disk."""
    records = json.loads(path.read_text()) if path.exists() else []
    return [record["policy"]["name"] for record in records]


async def test_an_edit_is_on_disk_while_its_announcement_waits_for_the_broker(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.json"
    back = asyncio.Event()

    async def waits(_: PolicyChanged) -> None:
        await back.wait()

    syncing = asyncio.create_task(store(path, waits).sync(FOUND))
    await wait_until(lambda: kept(path) == ["t"])
    assert not syncing.done()
    back.set()
    await syncing


async def test_an_edit_is_on_disk_though_announcing_it_went_wrong(tmp_path: Path) -> None:
    path = tmp_path / "store.json"

    async def fails(_: PolicyChanged) -> None:
        raise KeyError("wrong")

    with pytest.raises(KeyError):
        await store(path, fails).sync(FOUND)
    assert kept(path) == ["t"]


async def test_an_edit_is_announced_while_the_disk_is_slow(tmp_path: Path) -> None:
    told = asyncio.Event()

    async def tells(_: PolicyChanged) -> None:
        told.set()

    slow = store(tmp_path / "store.json", tells)
    await slow._disk._lock.acquire()  # as while it writes
    syncing = asyncio.create_task(slow.sync(FOUND))
    await wait_until(told.is_set)
    assert not syncing.done()
    slow._disk._lock.release()
    await syncing
