"""How a process follows its log level in Consul, and whom `maniple log-level` can mean."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from maniple_cli.commands import log_level
from maniple_cli.consul_access import TOKEN, consul_at
from maniple_cli.main import build
from maniple_cli.output import ExitCode
from maniple_runtime import log_levels
from maniple_runtime.consul.catalog import CatalogEntry, Instance
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.log_levels import LogLevels
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import configure_logging, get_logger
from waiting import wait_until

FOLDER = "maniple/dev/log-levels/"
WHERE = ("--broker-url", "amqp://test@memory/dev", "--consul-url", "http://127.0.0.1:1")
WRONG = (ConsulUnavailable("Consul: away"), KeyError("X-Consul-Index"))


class Store(Consul):
    """A key-value store whose blocking queries end at a change, or with the next of `errors`.

    As with Consul, any write is a change to who asks for keys that are not there. With `refuses`
    nothing may be written over it.
    """

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.keys: dict[str, bytes] = {}
        self.index = 1
        self.looks = 0
        self.errors: list[Exception] = []
        self.refuses = False
        self.refused = 0
        self._changed = asyncio.Event()

    def change(self, target: str, level: str) -> None:
        self.write(FOLDER + target, level.encode())

    def write(self, key: str, value: bytes) -> None:
        if key.startswith(FOLDER) or not self.keys:
            self.index += 1
        self.keys |= {key: value} if key.startswith(FOLDER) else {}
        self._changed.set()

    def fail(self, error: Exception) -> None:
        self.errors.append(error)
        self._changed.set()

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        self.looks += 1
        found = [(key, value) for key, value in self.keys.items() if key.startswith(prefix)]
        return self.index, [CatalogEntry(key, value, self.index) for key, value in found]

    async def watch(
        self, prefix: str, index: int, wait: float = 30
    ) -> tuple[int, list[CatalogEntry]]:
        del wait
        while index == self.index and not self.errors:
            self._changed.clear()
            await self._changed.wait()
        if self.errors:
            raise self.errors.pop()
        return await self.kv_list(prefix)

    async def kv_put(self, key: str, value: bytes, *, cas: int | None = None) -> bool:
        if self.refuses:
            self.refused += 1
            raise ConsulRefused("Consul: permission denied")
        if cas == 0 and key in self.keys:
            return False
        self.write(key, value)
        return True


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What is logged."""
    monkeypatch.setattr(log_levels, "PAUSE", 0.001)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(ServiceSettings(instance="a1"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def following(store: Store) -> asyncio.Task[None]:
    levels = LogLevels(store, ServiceSettings(instance="a1"), get_logger())
    return asyncio.create_task(levels.follow_level())


@pytest.mark.parametrize("steps", [("error", "critical"), ("debug", "error", "info", "critical")])
async def test_every_change_of_the_level_is_logged_whichever_way_it_goes(
    lines: Callable[[], list[dict[str, Any]]], steps: tuple[str, ...]
) -> None:
    store = Store()
    work = following(store)
    for number, level in enumerate(steps, 1):
        store.change("a1", level)
        await wait_until(lambda n=number: len(lines()) == n)  # type: ignore[misc]
        assert (lines()[-1]["event"], lines()[-1]["after"]) == ("log level changed", level)
    assert logging.getLogger().level == logging.CRITICAL
    work.cancel()


@pytest.mark.parametrize("error", WRONG)
async def test_no_error_ends_the_watch(
    lines: Callable[[], list[dict[str, Any]]], error: Exception
) -> None:
    store = Store()
    work = following(store)
    await wait_until(lambda: store.looks > 0)
    store.fail(error)
    await wait_until(lambda: store.looks > 1)
    store.change("all", "error")
    await wait_until(lambda: logging.getLogger().level == logging.ERROR)
    unexpected = [line for line in lines() if "exception" in line]
    assert len(unexpected) == (not isinstance(error, ConsulUnavailable))
    work.cancel()


async def test_who_sees_no_change_does_not_ask_again(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    store = Store()
    work = following(store)
    store.change("a1", "error")
    await wait_until(lambda: bool(lines()))
    asked = store.looks
    await asyncio.sleep(50 * log_levels.PAUSE)
    assert store.looks == asked
    work.cancel()


async def test_what_others_write_wakes_nobody_though_no_level_is_set(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    store = Store()
    work = following(store)
    await wait_until(lambda: store.looks == 2)  # the second sees what the first wrote
    for _ in range(20):
        store.write("maniple/dev/breakers/a", b"open")
        await asyncio.sleep(2 * log_levels.PAUSE)
    assert store.looks == 2
    assert not lines()
    work.cancel()


async def test_who_may_not_write_follows_the_level_all_the_same(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    store = Store()
    store.refuses = True
    work = following(store)
    await wait_until(lambda: store.refused == 1)
    for looks in (2, 3):
        store.write("maniple/dev/breakers/a", b"open")
        await wait_until(lambda n=looks: store.looks >= n)  # type: ignore[misc]
    store.change("a1", "error")
    await wait_until(lambda: logging.getLogger().level == logging.ERROR)
    assert store.refused == 1
    assert len(lines()) == 1
    work.cancel()


class Catalog(Store):
    """A store with twelve agents in the catalog."""

    async def instances(self, service: str) -> list[Instance]:
        ids = [f"agent-{n}" for n in range(12)] if service == "maniple-agent" else []
        return [Instance(one, service, "node", "127.0.0.1", 1, "passing", {}) for one in ids]

    async def kv_delete(self, key: str, *, recurse: bool = False, cas: int | None = None) -> bool:
        del recurse, cas
        self.keys.pop(key, None)
        return True


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    made = Catalog()
    monkeypatch.setattr(log_level, "consul_at", lambda _url: made)
    return made


@pytest.mark.parametrize("target", ["all", "dispatcher", "agent-11"])
def test_a_level_is_set_for_whom_there_is(catalog: Catalog, target: str) -> None:
    result = CliRunner().invoke(build(), ["log-level", "debug", target, *WHERE])
    assert (result.exit_code, catalog.keys) == (ExitCode.DONE, {FOLDER + target: b"debug"})


def test_a_target_that_nobody_goes_by_is_refused_with_what_there_is(catalog: Catalog) -> None:
    result = CliRunner().invoke(build(), ["log-level", "debug", "agnet", *WHERE])
    assert (result.exit_code, catalog.keys) == (ExitCode.USAGE, {})
    assert "nobody is called 'agnet' in dev" in result.stderr
    assert "agent-9 and 2 more" in result.stderr


def test_a_level_of_who_has_gone_can_be_taken_back(catalog: Catalog) -> None:
    catalog.keys[f"{FOLDER}agent-99"] = b"debug"
    result = CliRunner().invoke(build(), ["log-level", "default", "agent-99", *WHERE])
    assert (result.exit_code, catalog.keys) == (ExitCode.DONE, {})


def test_an_empty_token_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for token, sent in (("", None), ("secret", "secret")):
        monkeypatch.setenv(TOKEN, token)
        assert consul_at("http://127.0.0.1:1")._token == sent
