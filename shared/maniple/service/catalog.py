"""What Consul's answers say, as values."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
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
class Put:
    """One write of a transaction; `cas` as in `Consul.kv_put`, None writes in any case."""

    key: str
    value: bytes
    cas: int | None = None


def entry_of(item: Mapping[str, Any]) -> Entry:
    """Read one item of `/v1/kv`, its value already decoded."""
    return Entry(item["Key"], item["Value"] or b"", item["ModifyIndex"], item.get("Session"))


def operation_of(put: Put) -> dict[str, Any]:
    """Write one operation of `/v1/txn`."""
    verb = {"Verb": "set"} if put.cas is None else {"Verb": "cas", "Index": put.cas}
    value = base64.b64encode(put.value).decode()
    return {"KV": {**verb, "Key": put.key, "Value": value}}


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
