"""What a process takes for the set of policies in force, from replicas of two releases."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog

from maniple.clock import SYSTEM_CLOCK
from maniple.timings import Timings
from maniple_policies import PolicySet, parse_policy
from maniple_runtime.health import Health
from maniple_runtime.policy_view import PolicyView
from maniple_runtime.telemetry import Metrics
from waiting import wait_until


def timeout(name: str) -> Any:
    match = {"capability": f"{name}.*"}
    document = {"kind": "timeout", "name": name, "match": match, "spec": {"seconds": 1}}
    return parse_policy(document)


A, AB = PolicySet([timeout("a")]), PolicySet([timeout("a"), timeout("b")])


class ViewingProcess:
    """A process, and a policy service that answers as it is told to."""

    def __init__(self, folder: Path) -> None:
        settings = SimpleNamespace(
            timings=Timings(),
            service="dispatcher",
            instance="one",
            region="",
            data_dir=folder,
            environment="dev",
        )
        self.following: list[asyncio.Task[None]] = []
        runtime: Any = SimpleNamespace(
            settings=settings,
            spawn=lambda work, _: self.following.append(asyncio.ensure_future(work)),
            health=Health("dispatcher", "one"),
            metrics=Metrics(),
            log=structlog.get_logger(),
            clock=SYSTEM_CLOCK,
        )
        self.answer: dict[str, Any] = {}
        plane: Any = SimpleNamespace(request=self.request, emit=self.emit)
        self.view = PolicyView(runtime, plane)

    async def request(self, *_: Any) -> dict[str, Any]:
        return self.answer

    async def emit(self, _: Any) -> None: ...

    async def told(self, policies: PolicySet, **more: Any) -> PolicySet:
        """Announce a set from the policy service; return the set in force then."""
        self.answer = {"digest": policies.digest, "policies": policies.to_json(), **more}
        await self.view.refresh()
        return self.view.current


async def test_the_set_of_an_older_replica_gives_way_to_that_of_a_newer_one(
    tmp_path: Path,
) -> None:
    process = ViewingProcess(tmp_path)
    # Which of two sets of one revision is taken goes by their digests: neither order may matter.
    for newer, older in ((AB, A), (A, AB)):
        process.view.current = PolicySet()
        assert (await process.told(newer, revision=7)).digest == newer.digest
        await process.told(older)
        assert (await process.told(newer, revision=7)).digest == newer.digest


async def test_policies_are_known_once_a_policy_service_that_reads_consul_has_told_them(
    tmp_path: Path,
) -> None:
    process = ViewingProcess(tmp_path)
    assert not process.view.known
    await process.told(A, revision=1, current=False)
    assert (process.view.current.digest, process.view.known) == (A.digest, False)
    process.answer = {"digest": A.digest, "policies": None, "revision": 1, "current": True}
    await process.view.refresh()
    assert process.view.known


async def test_what_came_into_force_just_before_its_end_is_what_a_process_begins_with_again(
    tmp_path: Path,
) -> None:
    process = ViewingProcess(tmp_path)
    await process.told(A, revision=1)
    process.view.start_following()
    again = ViewingProcess(tmp_path)

    def kept() -> str:
        again.view.load_kept()
        return again.view.current.digest

    await wait_until(lambda: kept() == A.digest)
    await asyncio.sleep(0.05)  # it is known as kept, too
    await process.told(AB, revision=2)
    (following,) = process.following
    assert not following.done()
    following.cancel()
    await asyncio.wait({following})
    assert kept() == AB.digest
