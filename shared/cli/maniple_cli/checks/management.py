"""The broker as its management API shows it: plugins, alarms, arguments, unserved lanes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from maniple.topology import QUEUES, Queue, lane_queues
from maniple_cli.checks.findings import CheckVerdict, Finding, Places, judged
from maniple_cli.checks.pages import Page, PageUnread, read
from maniple_cli.consul_access import tls_of
from maniple_runtime.settings import environment_of

WANTED_PLUGINS = {
    "rabbitmq_management": "registries close the connections of dead agents over it",
    "rabbitmq_prometheus": "the broker's dashboards and alerts come from it",
}
LANE_PREFIX = "maniple.lane."
DEVELOPMENT = "dev"
"""The environment of `maniple dev`, on one broker."""
FEWEST_REPLICAS = 3
OK, FORBIDDEN = 200, (401, 403)


@dataclass(frozen=True)
class ManagementPages:
    """The API's answers: nodes, the queues of our environment, its clock as in `Page`."""

    environment: str
    nodes: list[dict[str, Any]]
    queues: list[dict[str, Any]]
    ahead: float | None


class ManagementUnread(Exception):
    """The API did not answer; `finding` says why and what to do."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


async def ask(places: Places) -> ManagementPages:
    """Ask the API. Raises `ManagementUnread`."""
    if places.management is None:
        advice = "set it to see plugins, alarms, queue arguments and lanes as well"
        raise ManagementUnread(
            Finding("management", CheckVerdict.SKIPPED, "MANIPLE_MANAGEMENT_URL is not set", advice)
        )
    base = places.management.rstrip("/")
    environment = environment_of(places.broker)
    nodes = await _page(f"{base}/api/nodes")
    queues = await _page(f"{base}/api/queues/{quote(environment, safe='')}")
    return ManagementPages(environment, nodes.value, queues.value, nodes.ahead)


async def _page(url: str) -> Page:
    try:
        page = await read(url, tls=tls_of("management"))
    except PageUnread as error:
        advice = "enable it with 'rabbitmq-plugins enable rabbitmq_management', or correct the URL"
        raise _unread(f"the management API {error}", advice) from error
    if page.status in FORBIDDEN:
        advice = "give MANIPLE_MANAGEMENT_URL the login of 'operator', or the tag 'monitoring'"
        raise _unread("the management API refuses this user", advice)
    if page.status != OK:
        raise _unread(f"the management API answered {page.status}", "look at the broker's log")
    return page


def _unread(found: str, advice: str) -> ManagementUnread:
    return ManagementUnread(Finding("management", CheckVerdict.FAILED, found, advice))


def judge(told: ManagementPages) -> list[Finding]:
    """Judge all answers of the API, except for the lanes."""
    return [
        plugins(told.nodes),
        alarms(told.nodes),
        arguments(told.queues),
        streams(told.queues, told.environment),
    ]


def plugins(nodes: Iterable[Mapping[str, Any]]) -> Finding:
    """Judge which plugins are enabled on every node."""
    missing = [
        (node["name"], plugin)
        for node in nodes
        if node.get("running", True)
        for plugin in WANTED_PLUGINS
        if plugin not in node.get("enabled_plugins", ())
    ]
    return judged(
        "plugins",
        CheckVerdict.WARNING,
        [f"{node} has no {plugin}: {WANTED_PLUGINS[plugin]}" for node, plugin in missing],
        well=", ".join(WANTED_PLUGINS),
        advice=f"run there: rabbitmq-plugins enable {' '.join(sorted({p for _, p in missing}))}",
    )


def alarms(nodes: Iterable[Mapping[str, Any]]) -> Finding:
    """Judge whether the broker blocks publishers, or is partitioned."""
    wrong, advice = [], []
    for node in nodes:
        if node.get("running") is False:
            wrong.append(f"{node['name']} is not running")
            advice.append("start it")
        if node.get("mem_alarm"):
            wrong.append(f"{node['name']} has no memory left, and takes no publishes")
            advice.append("give it more memory, or start what consumes its queues")
        if node.get("disk_free_alarm"):
            wrong.append(f"{node['name']} has no disk left, and takes no publishes")
            advice.append("free some disk, or shorten the streams")
        if node.get("partitions"):
            wrong.append(f"{node['name']} is cut off from {', '.join(node['partitions'])}")
            advice.append("mend the network between the brokers")
    return judged("alarms", CheckVerdict.FAILED, wrong, well="none", advice="; ".join(advice))


def arguments(queues: Iterable[Mapping[str, Any]]) -> Finding:
    """Judge whether existing queues were declared with our arguments."""
    return judged(
        "queue arguments",
        CheckVerdict.FAILED,
        wrong_arguments({queue["name"]: queue.get("arguments", {}) for queue in queues}),
        well="all as they should be",
        advice="stop Maniple, delete the queues once they are empty, and start it again; of streams"
        " (`maniple.records`, `….log`) only what a policy of RabbitMQ can set is worth changing",
    )


def wrong_arguments(present: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the differences between existing queues and those that should exist."""
    ours = {queue.name: queue for queue in (*QUEUES, *_lanes(present))}
    return [
        f"{name}: {argument} is {has!r}, not {wanted!r}"
        for name, arguments in present.items()
        if name in ours
        for argument, wanted in ours[name].all_arguments.items()
        if (has := arguments.get(argument)) != wanted
    ]


def streams(queues: Iterable[Mapping[str, Any]], environment: str) -> Finding:
    """Judge whether a power loss of the broker may lose the records of the last seconds.

    RabbitMQ confirms a publish to a stream before it is flushed to disk, so it is safe only by
    being on several machines. Their number is a statistic, which a young stream does not have yet.
    """
    ours = {queue.name for queue in QUEUES if queue.kind == "stream"}
    members = {q["name"]: q.get("members") for q in queues if q["name"] in ours}
    known = {name: len(nodes) for name, nodes in members.items() if isinstance(nodes, list)}
    if environment == DEVELOPMENT:
        return Finding("streams", CheckVerdict.OK, f"one broker will do for {DEVELOPMENT!r}")
    few = {name: count for name, count in sorted(known.items()) if count < FEWEST_REPLICAS}
    if not few and len(known) < len(ours):
        unknown = ", ".join(sorted(ours - known.keys()))
        advice = "ask again in some seconds"
        return Finding(
            "streams", CheckVerdict.SKIPPED, f"no replicas are told of {unknown}", advice
        )
    return judged(
        "streams",
        CheckVerdict.WARNING,
        [f"{name} has {count} of {FEWEST_REPLICAS} replicas" for name, count in few.items()],
        well=f"{len(known)} streams, each with {FEWEST_REPLICAS} replicas or more",
        advice="a broker that loses its power may lose the last records: have three, and run"
        " 'rabbitmq-streams add_replica' for each stream on those that lack it",
    )


def _lanes(names: Iterable[str]) -> list[Queue]:
    return [
        lane_queues(name.removeprefix(LANE_PREFIX))[0]
        for name in names
        if name.startswith(LANE_PREFIX)
    ]


def lane_names(told: ManagementPages) -> list[str]:
    """Return the names of the lanes' queues."""
    return [queue["name"] for queue in told.queues if queue["name"].startswith(LANE_PREFIX)]


def unserved(messages: Mapping[str, int], consumers: Mapping[str, int]) -> Finding:
    """Judge whether tasks wait in a lane without a consumer; both by queue name."""
    waiting = {name: count for name, count in messages.items() if count and not consumers[name]}
    return judged(
        "lanes",
        CheckVerdict.FAILED,
        [
            f"{count} messages wait in {name}, which nobody consumes"
            for name, count in waiting.items()
        ],
        well=f"{len(messages)} queues, none with tasks and without an agent",
        advice="start agents whose MANIPLE_HANDLERS have these capabilities",
    )
