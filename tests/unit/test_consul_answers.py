"""`consul.client` and the registry's reaper, with Consuls that say what the tests want."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
import structlog

from maniple_registry.catalog_reaper import CatalogReaper
from maniple_runtime.consul.catalog import Ailing, Instance, selecting
from maniple_runtime.consul.client import Consul, ConsulUnavailable

T = TypeVar("T")


class Refusing(Consul):
    """Answers each refresh of a TTL check with an error; knows the checks `known`."""

    def __init__(self, error: str, known: Iterable[str] = ()) -> None:
        super().__init__("http://127.0.0.1:1")
        self._error = error
        self._known = known

    async def _call(self, work: Callable[[Any], T]) -> T:
        del work
        raise ConsulUnavailable(f"Consul: {self._error}")

    async def registered(self, instance: str) -> bool:
        return instance in self._known


@pytest.mark.parametrize(
    "said",
    [
        '500 Unknown check "ttl:a1"',  # with ACLs
        '500 CheckID "ttl:a1" does not have associated TTL',
        "500 in the words of a later version",
    ],
)
async def test_an_entry_that_consul_lost_is_told_from_a_consul_that_is_unwell(said: str) -> None:
    assert not await Refusing(said).pass_ttl("a1")
    with pytest.raises(ConsulUnavailable):
        await Refusing(said, ["a1"]).pass_ttl("a1")


async def test_a_consul_that_cannot_be_reached_has_not_lost_the_entry() -> None:
    with pytest.raises(ConsulUnavailable):
        await Refusing("connection refused").pass_ttl("a1")


def instance(name: str, environment: str = "dev", **checks: str) -> Instance:
    meta = {"environment": environment}
    return Instance(name, "maniple-agent", "node", "127.0.0.1", 1, "critical", checks, (), meta)


class Catalog(Consul):
    """A catalog of instances, which must not be listed as a whole."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__("http://127.0.0.1:1")
        self.there = {one.id: one for one in instances}
        self.asked: list[set[str]] = []
        self.changes_before_details: dict[str, Instance] = {}

    async def ailing(self, prefix: str, tag: str) -> list[Ailing]:
        del tag
        found = []
        for one in self.there.values():
            critical = frozenset(c for c, status in one.checks.items() if status == "critical")
            if critical and one.service.startswith(prefix):
                found.append(Ailing(one.id, one.service, one.node, critical))
        return found

    async def some_instances(self, service: str, ids: Iterable[str]) -> list[Instance]:
        self.asked.append(set(ids))
        self.there |= self.changes_before_details
        return [one for one in self.there.values() if one.id in ids and one.service == service]

    async def instances(self, service: str) -> list[Instance]:
        raise AssertionError(f"all of {service} were asked for")

    async def remove_instance(self, instance: Instance) -> None:
        del self.there[instance.id]


def reaper_of(catalog: Catalog) -> CatalogReaper:
    return CatalogReaper(
        catalog, "dev", structlog.get_logger(), gone_after=10.0, monotonic=lambda: 0.0
    )


async def test_only_the_details_of_what_is_critical_for_long_are_asked_for() -> None:
    gone = instance("gone", ttl="critical", http="critical")
    half = instance("half", ttl="critical", http="passing")
    foreign = instance("foreign", "other", ttl="critical", http="critical")
    well = instance("well", ttl="passing", http="passing")
    catalog = Catalog(gone, half, foreign, well)
    reaper = reaper_of(catalog)
    for second in (0.0, 5.0, 9.9):
        await reaper.remove_dead_entries(second)
    assert catalog.asked == []
    await reaper.remove_dead_entries(10.0)
    assert catalog.asked == [{"gone", "half", "foreign"}]
    assert set(catalog.there) == {"half", "foreign", "well"}


async def test_all_checks_must_have_been_critical_for_that_long() -> None:
    catalog = Catalog(instance("a1", ttl="critical", http="passing"))
    reaper = reaper_of(catalog)
    await reaper.remove_dead_entries(0.0)
    catalog.there["a1"] = instance("a1", ttl="critical", http="critical")
    await reaper.remove_dead_entries(9.0)
    await reaper.remove_dead_entries(18.0)
    assert set(catalog.there) == {"a1"}
    await reaper.remove_dead_entries(19.0)
    assert catalog.there == {}


async def test_a_check_that_fails_between_two_looks_at_it_has_not_been_critical_for_long() -> None:
    catalog = Catalog(instance("a1", ttl="critical", http="passing"))
    reaper = reaper_of(catalog)
    await reaper.remove_dead_entries(0.0)
    catalog.changes_before_details = {"a1": instance("a1", ttl="critical", http="critical")}
    await reaper.remove_dead_entries(10.0)
    assert set(catalog.there) == {"a1"}


def test_a_filter_leaves_out_what_it_cannot_say() -> None:
    assert list(selecting(['b"', "a\\", "c", "a", "a"])) == [
        'Service.ID == "a" or Service.ID == "c"'
    ]
