"""A real Consul that speaks TLS on IPv6 and asks who comes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from certificates import Authority
from consul_server import own_consul
from maniple_cli.dev_cluster.ports import free_ports
from maniple_runtime.consul.client import CREATE_ONLY, Consul, ConsulUnavailable
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.tls import Tls
from waiting import wait_until


@dataclass(frozen=True)
class Secured:
    """Where it is, and what whoever comes must have."""

    url: str
    tls: Tls


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("consul")
    authority = Authority(folder)
    server, client = authority.certificate("server"), authority.certificate("client")
    (port,) = free_ports(1)
    said = {
        "addresses": {"https": "::1"},
        "ports": {"https": port},
        "ca_file": str(authority.cacert),
        "cert_file": str(server.cert),
        "key_file": str(server.key),
        "verify_incoming_https": True,
    }
    config = folder / "tls.json"
    config.write_text(json.dumps(said))
    async with own_consul(folder, f"-config-file={config}"):
        tls = Tls(authority.cacert, client.cert, client.key)
        yield Secured(f"https://[::1]:{port}", tls)


async def test_keys_and_watches_work_over_tls(secured: Secured) -> None:
    consul = Consul(secured.url, tls=secured.tls)
    try:
        assert await consul.kv_put("test/a", b"1", cas=CREATE_ONLY)
        index, (entry,) = await consul.watch("test/", 0)
        assert (index > 0, entry.value) == (True, b"1")
        await consul.kv_delete("test/", recurse=True)
    finally:
        consul.close()


async def test_who_shows_no_certificate_is_told_why(secured: Secured) -> None:
    consul = Consul(secured.url, tls=Tls(secured.tls.cacert))
    try:
        with pytest.raises(ConsulUnavailable, match=r"Consul: (TLS|cannot be reached): "):
            await consul.services()
    finally:
        consul.close()


@asynccontextmanager
async def nothing(_: Runtime) -> AsyncIterator[None]:
    yield


async def test_a_process_registers_over_tls(secured: Secured, tmp_path: Path) -> None:
    settings = ServiceSettings(
        instance="secured",
        consul_url=secured.url,
        consul_cacert=secured.tls.cacert,
        consul_cert=secured.tls.cert,
        consul_key=secured.tls.key,
        data_dir=tmp_path,
    )
    async with running(settings, nothing) as runtime:

        async def is_registered() -> bool:
            found = await runtime.consul.instances("maniple-service")
            return [one.id for one in found] == ["secured"]

        await wait_until(is_registered)
