"""Consul's answers as values, and the bodies of requests to it."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from maniple.timings import Catalog

DEREGISTER_AFTER = "1m"  # Consul's own minimum
SELECTED = 20  # instances asked for in one call

log = structlog.get_logger("maniple.consul")
T = TypeVar("T")


def service_name(kind: str) -> str:
    """Return the name under which processes of a kind (`agent`, `registry`, …) register."""
    return f"maniple-{kind}"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A key of the store. `index` is its ModifyIndex, the one that compare-and-set takes."""

    key: str
    value: bytes
    index: int
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A registered process; `status` is the worst of its checks, `checks` each one's by id."""

    id: str
    service: str
    node: str
    address: str
    port: int
    status: str
    checks: Mapping[str, str]
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """URL of the instance's HTTP port."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Ailing:
    """An instance with critical checks; whether it has other checks is not known."""

    id: str
    service: str
    node: str
    critical: frozenset[str]


@dataclass(frozen=True, slots=True)
class Put:
    """One write of a transaction; `cas` as in `Consul.kv_put`, None writes in any case."""

    key: str
    value: bytes
    cas: int | None = None


def each(read: Callable[[Any], T], items: Iterable[Any] | None) -> list[T]:
    """Read items one by one; a malformed one is logged and costs no other."""
    found, odd = list[T](), 0
    for item in items or ():
        if item is None:  # as a key that is not there
            continue
        try:
            found.append(read(item))
        except UNREADABLE:
            odd += 1
    if odd:
        log.warning("entries from Consul cannot be read", number=odd)
    return found


def entry_of(item: Mapping[str, Any]) -> CatalogEntry:
    """Read one item of `/v1/kv`, its value already decoded."""
    index = int(item["ModifyIndex"])
    return CatalogEntry(str(item["Key"]), item["Value"] or b"", index, item.get("Session"))


def operation_of(put: Put) -> dict[str, Any]:
    """Write one operation of `/v1/txn`."""
    verb = {"Verb": "set"} if put.cas is None else {"Verb": "cas", "Index": put.cas}
    value = base64.b64encode(put.value).decode()
    return {"KV": {**verb, "Key": put.key, "Value": value}}


UNREADABLE = (LookupError, TypeError, AttributeError, ValueError)
_WORSE = ("passing", "warning", "critical")


def instance_of(found: Mapping[str, Any]) -> Instance:
    """Read one item of `/v1/health/service/<name>`."""
    service, node = found["Service"], found["Node"]
    checks = {check["CheckID"]: check["Status"] for check in found["Checks"]}
    worst = max(checks.values(), key=lambda s: _WORSE.index(s) if s in _WORSE else 2, default="")
    return Instance(
        id=service["ID"],
        service=service["Service"],
        node=node["Node"],
        address=service["Address"] or node["Address"],
        port=service["Port"],
        status=worst or "passing",
        checks=checks,
        tags=tuple(service.get("Tags") or ()),
        meta=service.get("Meta") or {},
    )


def ailing_of(found: Iterable[Mapping[str, Any]], prefix: str, tag: str) -> list[Ailing]:
    """Read `/v1/health/state/critical`: tagged instances of services with this prefix."""
    checks: dict[tuple[str, str, str], set[str]] = {}
    for which, check in filter(None, each(lambda item: _check_of(item, prefix, tag), found)):
        checks.setdefault(which, set()).add(check)
    return [Ailing(*who, critical=frozenset(which)) for who, which in checks.items()]


def _check_of(
    item: Mapping[str, Any], prefix: str, tag: str
) -> tuple[tuple[str, str, str], str] | None:
    name = item.get("ServiceName") or ""
    if not name.startswith(prefix) or tag not in (item.get("ServiceTags") or ()):
        return None
    return (item["ServiceID"], name, item["Node"]), item["CheckID"]


def checks_of(http_id: str, url: str, times: Catalog) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both checks of a process: HTTP and TTL."""
    page = {
        "http": url,
        "interval": f"{times.http_interval}s",
        "timeout": f"{times.http_timeout}s",
        "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
        "FailuresBeforeCritical": 3,
        "CheckID": http_id,
        "Name": "HTTP /health",
        "Status": "passing",
    }
    return page, {"ttl": f"{times.ttl}s", "DeregisterCriticalServiceAfter": DEREGISTER_AFTER}


def selecting(ids: Iterable[str]) -> Iterator[str]:
    """Return filters that select instances by their ids, a limited number in each.

    An id that a filter cannot express (its strings know no escapes) is none of ours, and left out.
    """
    wanted = sorted(one for one in set(ids) if one.isprintable() and not {*one} & {'"', "\\"})
    for start in range(0, len(wanted), SELECTED):
        some = wanted[start : start + SELECTED]
        yield " or ".join(f'Service.ID == "{one}"' for one in some)
