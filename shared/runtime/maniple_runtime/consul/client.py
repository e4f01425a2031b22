"""Consul for asyncio: python-consul2's synchronous client in a few threads of its own.

Its own asyncio adapter drops TLS material and opens a session per request, so it is not used.
Every call has a timeout; a call that waits (a blocking query) has a thread of its own, so that
it neither starves the others nor keeps the process from exiting.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import consul as consul2
import requests
from consul import std

from maniple.errors import ManipleError
from maniple.loops import in_thread_alone
from maniple.timings import Catalog
from maniple_runtime.bounded_http import BoundedSession
from maniple_runtime.consul.catalog import (
    UNREADABLE,
    Ailing,
    CatalogEntry,
    Instance,
    Put,
    ailing_of,
    checks_of,
    each,
    entry_of,
    instance_of,
    operation_of,
    selecting,
)
from maniple_runtime.tls import Tls, reason_of

CALL_TIMEOUT = 3.0  # seconds
THREADS = 4
MOST_DIGITS = 20  # of an index
MOST_BYTES = 64 * 1024 * 1024  # of an answer: some ten thousand agents, or keys at their largest
MOST_TOLD = 500  # characters of an error
CREATE_ONLY = 0  # compare-and-set index of a key that must not exist yet

T = TypeVar("T")


class ConsulUnavailable(ManipleError):
    """Consul could not be reached, has no leader, or did not answer in time."""


class ConsulRefused(ManipleError):
    """Consul answered that it will not do this: a bad request or a missing permission."""


class Consul:
    """Async view of one Consul agent. Errors: `ConsulUnavailable`, `ConsulRefused`."""

    def __init__(self, url: str, token: str | None = None, tls: Tls | None = None) -> None:
        self.url = url
        self._token = token
        self._tls = tls or Tls()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="consul")

    def close(self) -> None:
        """End the threads; calls under way end within their timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- this process's own registration -------------------------------------------------

    async def register_service(  # noqa: PLR0913 - what a registration consists of
        self,
        name: str,
        instance: str,
        *,
        address: str,
        port: int,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        times: Catalog | None = None,
    ) -> None:
        """Register with both checks; the TTL check is critical until its first pass.

        The HTTP check begins as passing: a process registers only once its pages are served.
        """
        host = f"[{address}]" if ":" in address else address
        page = f"http://{host}:{port}/health"
        http, ttl = checks_of(http_check(instance), page, times or Catalog())

        def register(client: Any) -> None:
            client.agent.service.register(
                name,
                service_id=instance,
                address=address,
                port=port,
                tags=list(tags),
                meta=dict(meta or {}),
                check=http,
            )
            client.agent.check.register(
                "work is taken", check=ttl, check_id=ttl_check(instance), service_id=instance
            )

        await self._call(register)

    async def deregister_service(self, instance: str) -> None:
        """Remove an instance from this agent; an unknown one is no error."""
        try:
            await self._call(lambda c: c.agent.service.deregister(instance))
        except ConsulUnavailable as error:
            if "Unknown service" not in str(error):  # some versions say so, with a 500
                raise

    async def remove_instance(self, instance: Instance) -> None:
        """Remove an instance that may be registered at another machine's agent."""
        await self.deregister_service(instance.id)
        await self._call(lambda c: c.catalog.deregister(instance.node, service_id=instance.id))

    async def pass_ttl(self, instance: str, note: str = "") -> bool:
        """Refresh the TTL check; False if Consul does not know it (any more)."""
        try:
            return bool(
                await self._call(lambda c: c.agent.check.ttl_pass(ttl_check(instance), note))
            )
        except ConsulUnavailable as error:
            # With a 500, in words that differ by version and with ACLs.
            if str(error).startswith("Consul: 500") and not await self.registered(instance):
                return False
            raise

    async def registered(self, instance: str) -> bool:
        """Whether the agent knows this instance and its TTL check."""
        return await self._call(lambda c: ttl_check(instance) in c.agent.checks())

    # --- everybody's ---------------------------------------------------------------------

    async def services(self) -> dict[str, list[str]]:
        """Names of all services, each with its tags."""
        return await self._call(lambda c: dict(c.catalog.services()[1]))

    async def instances(self, service: str) -> list[Instance]:
        """Every instance of a service, healthy or not, by id."""
        found = await self._call(lambda c: each(instance_of, c.health.service(service)[1]))
        return sorted(found, key=lambda i: i.id)

    async def some_instances(self, service: str, ids: Iterable[str]) -> list[Instance]:
        """Those instances of a service that have one of these ids, by id."""
        found: list[Instance] = []
        for query in selecting(ids):
            found += await self._call(partial(_filtered, service=service, query=query))
        return found

    async def ailing(self, prefix: str, tag: str) -> list[Ailing]:
        """Instances with critical checks and this tag, of the services with this prefix."""
        return await self._call(
            lambda c: ailing_of(c.health.state("critical")[1] or (), prefix, tag)
        )

    # --- key-value store -----------------------------------------------------------------

    async def kv_get(self, key: str) -> CatalogEntry | None:
        """Read one key."""
        found = await self._call(lambda c: each(entry_of, [c.kv.get(key)[1]]))
        return found[0] if found else None

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        """Return all keys with a prefix, and the store's index at that time."""
        return await self._call(lambda c: _listed(c.kv.get(prefix, recurse=True)))

    async def watch(
        self, prefix: str, index: int, wait: float = 30.0
    ) -> tuple[int, list[CatalogEntry]]:
        """Like `kv_list`, but wait up to `wait` seconds for something newer than `index`.

        An index that went backwards (Consul was restarted) is returned as it is: pass on the latest
        one that was returned.
        """

        def query(client: Any) -> tuple[int, list[CatalogEntry]]:
            asked = {"index": max(1, index), "wait": f"{wait:g}s"}
            return _listed(client.kv.get(prefix, recurse=True, **asked))

        # Consul adds up to a sixteenth of jitter to `wait`.
        return await self._call_alone(query, wait * 17 / 16 + CALL_TIMEOUT)

    async def kv_put(self, key: str, value: bytes, *, cas: int | None = None) -> bool:
        """Write a key; with `cas` only at that index, with `CREATE_ONLY` only if it is new."""
        return bool(await self._call(lambda c: c.kv.put(key, value, cas=cas)))

    async def kv_delete(self, key: str, *, recurse: bool = False, cas: int | None = None) -> bool:
        """Delete a key, or all with this prefix. With `cas` only at that index."""
        return bool(await self._call(lambda c: c.kv.delete(key, recurse=recurse, cas=cas)))

    async def transaction(self, puts: Sequence[Put]) -> bool:
        """Do all writes (at most 64) or, if one index does not match, none: False."""
        payload = [operation_of(put) for put in puts]
        try:
            await self._call(lambda c: c.txn.put(payload))
        except ConsulRefused as error:
            if str(error).startswith("409"):
                return False
            raise
        return True

    # --- sessions and locks --------------------------------------------------------------

    async def create_session(
        self, name: str, *, lock_delay: float = 1, checks: Sequence[str] = ()
    ) -> str:
        """Create a session that ends when one of these checks, or the node's, is critical."""
        wanted = ["serfHealth", *checks]
        return str(
            await self._call(lambda c: c.session.create(name, checks=wanted, lock_delay=lock_delay))
        )

    async def destroy_session(self, session: str) -> None:
        """End a session and release its locks."""
        await self._call(lambda c: c.session.destroy(session))

    async def acquire(self, key: str, value: bytes, session: str) -> bool:
        """Take the lock `key`; False while another session holds it."""
        return bool(await self._call(lambda c: c.kv.put(key, value, acquire=session)))

    async def release(self, key: str, session: str) -> bool:
        """Give the lock back; False if this session did not hold it."""
        return bool(await self._call(lambda c: c.kv.put(key, b"", release=session)))

    # --- threads -------------------------------------------------------------------------

    def _client(self, timeout: float) -> Any:
        # The library's own __init__ lets CONSUL_HTTP_ADDR overrule its arguments and warns of ACLs
        # that nobody asked for, so its parts are put together here.
        client = std.Consul.__new__(std.Consul)
        client.http = client.http_connect(
            "", 0, "", verify=self._tls.verify, cert=self._tls.client, timeout=timeout
        )
        client.http.base_uri = self.url.rstrip("/")  # of the parts it makes none with brackets
        # No proxy stands between a process and its own agent.
        client.http.session = self._tls.session(BoundedSession(MOST_BYTES))
        client.token, client.dc, client.consistency = self._token, None, "default"
        for part in ("Agent", "Catalog", "Health", "KV", "Session", "Txn"):
            setattr(client, part.lower(), getattr(std.Consul, part)(client))
        return client

    async def _call(self, work: Callable[[Any], T]) -> T:
        def in_thread() -> T:
            client = getattr(self._local, "client", None)
            if client is None:
                client = self._local.client = self._client(CALL_TIMEOUT)
            return _translated(work, client)

        return await asyncio.get_running_loop().run_in_executor(self._pool, in_thread)

    async def _call_alone(self, work: Callable[[Any], T], timeout: float) -> T:
        def in_thread() -> T:
            client = self._client(timeout)
            try:
                return _translated(work, client)
            finally:
                # Client and parts refer to each other: a collection would close it, some day.
                client.http.session.close()

        return await in_thread_alone(in_thread, "consul-watch")


def http_check(instance: str) -> str:
    """Id of an instance's HTTP check."""
    return f"http:{instance}"


def ttl_check(instance: str) -> str:
    """Id of an instance's TTL check, for sessions that shall end with it."""
    return f"ttl:{instance}"


def _listed(answer: tuple[Any, Any]) -> tuple[int, list[CatalogEntry]]:
    told, found = answer
    # An index that is none is taken for that of a Consul that began anew.
    is_one = str(told).isdecimal() and len(str(told)) <= MOST_DIGITS
    return int(told) if is_one else 0, each(entry_of, found)


def _filtered(client: Any, *, service: str, query: str) -> list[Instance]:
    # The library's own `health.service` has no filter.
    headers = {"X-Consul-Token": client.token} if client.token else {}
    path, params = f"/v1/health/service/{service}", [("filter", query)]
    found = client.http.get(consul2.base.CB.json(), path=path, params=params, headers=headers)
    return each(instance_of, found)


def _translated(work: Callable[[Any], T], client: Any) -> T:
    try:
        return work(client)
    except (consul2.base.ClientError, consul2.base.BadRequest, consul2.NotFound) as error:
        raise ConsulRefused(str(error)[:MOST_TOLD]) from error
    except (consul2.ACLDisabled, consul2.ACLPermissionDenied) as error:
        raise ConsulRefused(f"Consul: permission denied: {error}"[:MOST_TOLD]) from error
    except requests.RequestException as error:
        raise ConsulUnavailable(f"Consul: {reason_of(error)}"[:MOST_TOLD]) from error
    except (consul2.ConsulException, OSError, ValueError) as error:
        raise ConsulUnavailable(f"Consul: {error}"[:MOST_TOLD]) from error
    except (*UNREADABLE, RecursionError) as error:
        # No Consul answers so: what listens there is something else, or what came is not whole.
        raise ConsulUnavailable(f"Consul: not its answer: {error!r}"[:MOST_TOLD]) from error
