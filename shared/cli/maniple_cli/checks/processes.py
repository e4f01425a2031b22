"""Processes as Consul lists them and as they report themselves, and everybody's clock."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maniple.urls import without_password
from maniple_cli.checks.findings import CheckVerdict, Finding, Places, judged
from maniple_cli.checks.pages import PageUnread, read
from maniple_cli.checks.timings import timings
from maniple_cli.consul_access import SERVICES, consul_at, listed, tls_of
from maniple_runtime.consul.catalog import Instance
from maniple_runtime.consul.client import ConsulRefused, ConsulUnavailable
from maniple_runtime.settings import environment_of

ASKED = 200  # processes at most; more would take minutes where none can be reached
AT_ONCE = 20
PAGE_TIMEOUT = 2.0
AGREE = 1.0  # seconds by which clocks may differ
APART = 10.0  # seconds from which deadlines are wrong by more than anybody expects


@dataclass
class Heard:
    """What was found about the processes; `clocks` by name, seconds ahead of ours as in `Page`."""

    findings: list[Finding] = field(default_factory=list)
    clocks: dict[str, float] = field(default_factory=dict)


async def examine(places: Places) -> Heard:
    """Ask Consul, judge its entries, and read the page of each process."""
    if places.consul is None:
        return Heard([Finding("consul", CheckVerdict.SKIPPED, "MANIPLE_CONSUL_URL is not set")])
    heard = Heard()
    consul = consul_at(places.consul)
    environment = environment_of(places.broker)
    try:
        await _look_at_leader(places.consul, heard)
        found = {one: await listed(consul, one, environment) for one in SERVICES}
    except (PageUnread, ConsulUnavailable, ConsulRefused) as error:
        reason = f"Consul {error}" if isinstance(error, PageUnread) else str(error)
        advice = f"start Consul, or correct MANIPLE_CONSUL_URL ({without_password(places.consul)})"
        return Heard([Finding("consul", CheckVerdict.FAILED, reason, advice)])
    finally:
        consul.close()
    heard.findings.append(
        Finding("consul", CheckVerdict.OK, f"answers at {without_password(places.consul)}")
    )
    heard.findings += [service(one, instances) for one, instances in found.items()]
    await _ask_each([one for instances in found.values() for one in instances], heard)
    return heard


def service(kind: str, instances: list[Instance]) -> Finding:
    """Judge whether a service has healthy processes, by Consul's checks."""
    passing = [instance for instance in instances if instance.status == "passing"]
    sick = [f"{i.id} is {i.status}" for i in instances if i.status != "passing"]
    if not passing:
        advice = f"start one with 'python -m maniple_{kind}', or look at its log"
        return Finding(kind, CheckVerdict.FAILED, "; ".join(sick) or "none is registered", advice)
    found = "; ".join([f"{len(passing)} healthy", *sick])
    if sick:
        return Finding(kind, CheckVerdict.WARNING, found, "look at its log")
    return Finding(kind, CheckVerdict.OK, found)


async def _ask_each(instances: list[Instance], heard: Heard) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(instance: Instance) -> Any:
        async with limit:
            try:
                page = await read(f"{instance.url}/health", PAGE_TIMEOUT)
            except PageUnread:
                return None
        if page.ahead is not None:
            heard.clocks[instance.id] = page.ahead
        return page.value if isinstance(page.value, dict) else None  # it is none of ours

    asked = instances[:ASKED]
    pages = await asyncio.gather(*map(ask, asked))
    told = {one.id: page for one, page in zip(asked, pages, strict=True) if page is not None}
    heard.findings.append(components(told, len(instances)))
    heard.findings.append(timings(told))


def components(pages: Mapping[str, Mapping[str, Any]], listed: int) -> Finding:
    """Judge the components at `/health`, by instance, of so many listed processes."""
    bad = [
        f"{instance}: {name} is not ok ({_dict(component).get('detail') or 'it does not say why'})"
        for instance, page in pages.items()
        for name, component in _dict(page.get("components")).items()
        if not _dict(component).get("ok")
    ]
    found = f"{len(pages)} of {listed} processes asked"
    if bad:
        return Finding(
            "health", CheckVerdict.WARNING, "; ".join([found, *bad]), "look at their logs"
        )
    if listed and not pages:
        advice = "run this where they can be reached, as in 'docker compose run --rm cli doctor'"
        return Finding(
            "health", CheckVerdict.SKIPPED, f"{found}: none can be reached from here", advice
        )
    return Finding("health", CheckVerdict.OK, f"{found}, every component is ok")


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


async def _look_at_leader(consul_url: str, heard: Heard) -> None:
    page = await read(f"{consul_url.rstrip('/')}/v1/status/leader", tls=tls_of("consul"))
    if not isinstance(page.value, str):
        raise PageUnread(f"is not what answers there: {page.status} {page.value}")
    if not page.value:
        raise PageUnread("has no leader")
    if page.ahead is not None:
        heard.clocks["Consul"] = page.ahead


def clocks(ahead: Mapping[str, float]) -> Finding:
    """Judge by how many seconds clocks are ahead of ours, by name."""
    if not ahead:
        return Finding("clocks", CheckVerdict.SKIPPED, "nobody told the time")
    off = {name: seconds for name, seconds in ahead.items() if abs(seconds) > AGREE}
    worst = max(map(abs, ahead.values()))
    return judged(
        "clocks",
        CheckVerdict.FAILED if worst > APART else CheckVerdict.WARNING,
        [
            f"{name} is at least {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} us"
            for name, seconds in off.items()
        ],
        well=f"{len(ahead)} agree with ours to a second",
        advice="synchronise the clocks (NTP): deadlines, expiry and recorded times go by them",
    )
