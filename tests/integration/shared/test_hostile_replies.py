"""Addresses for replies that a broker cannot decode harm nobody but who sent them."""

from base64 import b64encode

import msgspec
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from maniple.identifiers import new_id, refusal_id
from maniple.messages import Result
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime import metric_names
from outsider import DIRECT_REPLY_TO, Outsider
from poison import KEY, of_a_node_that_is_gone
from recording import recording
from scraping import sample_name, scrape
from waiting import wait_until

REPLY_LINK = "reply"
MALFORMED = ("garbage.x", f"{b64encode(b'no process id').decode()}.{KEY}", f"g2gC.{KEY}")


def losses(cluster: Cluster) -> dict[str, float]:
    """Return how often the links of dispatchers and agents were lost, but for foreign replies."""
    lost: dict[str, float] = {}
    for process in (*cluster.of_service("dispatcher"), *cluster.of_service("agent")):
        text = requests.get(f"{process.http}/metrics", timeout=5).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                link = sample.labels.get("link")
                if sample.name == sample_name(metric_names.RECONNECTS) and link != REPLY_LINK:
                    lost[f"{process.instance} {link}"] = sample.value
    return lost


async def ends_of(cluster: Cluster, tasks: list[str]) -> dict[str, Result]:
    """Wait until all of these tasks have a result in `maniple.records`, and return it."""
    async with recording(cluster.ready_info()["operator_url"]) as found:
        await wait_until(lambda: all(found.results(task) for task in tasks))
        return {task: found.results(task)[0] for task in tasks}


def test_direct_reply_to_brings_results(cluster: Cluster) -> None:
    with Outsider(cluster.ready_info()["broker_url"], direct=True) as outsider:
        assert outsider.ask("maniple.echo", {"payload": 1})["output"] == 1
        assert outsider.ask("maniple.echo", b"hello")["error"]["code"] == "undecodable"


def test_a_direct_reply_that_has_come_does_not_count_as_dropped(cluster: Cluster) -> None:
    agents, dropped = cluster.of_service("agent"), sample_name(metric_names.REPLIES_DROPPED)
    before = scrape(agents)[dropped]
    with Outsider(cluster.ready_info()["broker_url"], direct=True) as outsider:
        for number in range(20):
            assert outsider.ask("maniple.echo", {"payload": number})["output"] == number
    assert scrape(agents)[dropped] == before


async def test_an_address_that_no_broker_makes_is_refused_before_anything_is_sent(
    cluster: Cluster, outsider: Outsider
) -> None:
    before = losses(cluster)
    sent = [new_id() for _ in MALFORMED]
    for marker, token in zip(sent, MALFORMED, strict=True):
        reply_to = f"{DIRECT_REPLY_TO}.{token}"
        outsider.send("maniple.echo", {"payload": 1}, reply_to=reply_to, message_id=marker)
    for number in range(20):
        assert outsider.ask("maniple.echo", {"payload": number})["output"] == number
    ends = await ends_of(cluster, [refusal_id(marker, None) for marker in sent])
    assert {str(end.error.code) for end in ends.values() if end.error} == {"forbidden"}
    assert {str(end.status) for end in ends.values()} == {"rejected"}
    assert losses(cluster) == before


@pytest.mark.parametrize(
    ("service", "body", "status"),
    [("agent", {"payload": 1}, "succeeded"), ("dispatcher", {"no": 1}, "rejected")],
)
async def test_a_reply_that_breaks_its_connection_is_dropped_and_stops_nobody_else(
    cluster: Cluster, outsider: Outsider, service: str, body: dict[str, int], status: str
) -> None:
    processes, dropped = cluster.of_service(service), sample_name(metric_names.REPLIES_DROPPED)
    before, dropped_before = losses(cluster), scrape(processes)[dropped]
    sent = [new_id() for _ in range(3)]
    for number, marker in enumerate(sent):  # what comes later from one node may be refused
        reply_to = of_a_node_that_is_gone(10 * len(service) + number)
        outsider.send("maniple.echo", body, reply_to=reply_to, message_id=marker)
    for number in range(20):
        assert outsider.ask("maniple.echo", {"payload": number})["output"] == number
    await wait_until(lambda: scrape(processes)[dropped] >= dropped_before + len(sent), 30)
    assert outsider.ask("maniple.echo", {"payload": "after"})["output"] == "after"
    refused = status == "rejected"
    recorded = [refusal_id(marker, None) if refused else marker for marker in sent]
    ends = await ends_of(cluster, recorded)
    assert {str(end.status) for end in ends.values()} == {status}
    assert losses(cluster) == before


async def test_an_address_of_a_node_that_is_gone_is_soon_refused_at_once(
    cluster: Cluster, outsider: Outsider
) -> None:
    reply_to = of_a_node_that_is_gone(999)
    async with recording(cluster.ready_info()["operator_url"]) as found:

        async def is_refused() -> bool:
            marker = new_id()
            outsider.send("maniple.echo", {"payload": 1}, reply_to=reply_to, message_id=marker)
            refusal = refusal_id(marker, None)
            await wait_until(lambda: bool(found.results(marker) or found.results(refusal)))
            return bool(found.results(refusal))

        await wait_until(is_refused, 30)


# After these, nodes that have never answered are tried only now and then.
POISON: dict[str, list[str]] = {
    "one node": [of_a_node_that_is_gone(7)] * 60,
    "many nodes": [of_a_node_that_is_gone(number) for number in range(100, 130)],
    "a node between others": [of_a_node_that_is_gone(200), "no-such-queue"] * 30,
}


@pytest.mark.parametrize("body", [{"payload": 1}, {"no": 1}], ids=["good", "bad"])
@pytest.mark.parametrize("name", POISON)
def test_no_plain_reply_is_lost_beside_addresses_of_nodes_that_are_gone(
    cluster: Cluster, outsider: Outsider, name: str, body: dict[str, int]
) -> None:
    with Outsider(cluster.ready_info()["broker_url"], direct=True) as innocent:
        sent = []
        for number, reply_to in enumerate(POISON[name]):
            outsider.send("maniple.echo", body, reply_to=reply_to)
            sent.append((innocent, innocent.send("maniple.echo", {"payload": number})))
            sent.append((outsider, outsider.send("maniple.echo", {"payload": number})))
        outputs = [client.wait(one)[0]["output"] for client, one in sent]
        assert outputs == [number for number in range(len(POISON[name])) for _ in range(2)]


async def test_a_heartbeat_names_every_connection_of_its_agent(cluster: Cluster) -> None:
    info = cluster.ready_info()
    told = await ask(info["operator_url"], "registry", "agent", {"id": "agent-1"})

    async def shown() -> bool:  # the broker shows the name of a connection after some seconds
        url = f"{info['management_url']}/api/connections?columns=user_provided_name"
        _, body = await fetch(url)
        found = [entry.get("user_provided_name", "") for entry in msgspec.json.decode(body)]
        mine = {name for name in found if name.startswith("agent-1.")}
        assert mine <= set(told["connections"])
        return mine == set(told["connections"])

    await wait_until(shown, 15)
