"""The tables in docs/ that come from the code: `uv run python tools/generated_tables.py`.

A page has a table between `<!-- table: NAME -->` and `<!-- end -->`. The words beside the names are
here; a name without words, and words without a name, are errors.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticUndefined

from documents import PAGES
from maniple import topology
from maniple.topology import Exchange, Queue
from maniple_agent.settings import AgentSettings
from maniple_dispatcher.settings import DispatcherSettings
from maniple_policy.settings import PolicySettings
from maniple_registry.settings import RegistrySettings
from maniple_runtime.settings import PREFIX, ServiceSettings

COMMAND = "uv run python tools/generated_tables.py"
_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

EXCHANGES = {
    "maniple.tasks": "anyone: submissions, by capability or `batch`",
    "maniple.unrouted": "the broker: what came before `maniple.submit` was bound",
    "maniple.lanes": "dispatchers, agents: bundles of admitted tasks, by lane",
    "maniple.agents": "dispatchers: tasks with affinity, by agent",
    "maniple.delay": "dispatchers, agents: tasks that wait, by tier",
    "maniple.retry": "the delay tiers: tasks whose wait is over",
    "maniple.results": "dispatchers, agents: results, by capability, and what was admitted",
    "maniple.replies": "dispatchers, agents: results and progress for SDK clients, by address",
    "maniple.events": "all: `task.accepted`, `agent.…`, `policy.…`",
    "maniple.heartbeats": "agents",
    "maniple.outcomes": "agents: finished tasks, run times and load by lane and bulkhead; "
    "dispatchers: their presence, what they ask of each other's limits, and the answers",
    "maniple.control": "registry, operators: commands to agents",
    "maniple.requests": "command line, dispatchers, registries: questions, by service",
    "maniple.dead": "broker, dispatchers: dead tasks (`broker.…`), bad input (`service.refused.…`)",
}
QUEUES = {
    "maniple.submit": "submissions; dispatchers compete",
    "maniple.unrouted": "the same, in the moment between declaring and binding",
    "maniple.retry": "what has waited; dispatchers compete",
    "maniple.records": "the record of every task, agent and policy",
    "maniple.dead.log": "tasks that the broker gave up, with their bytes",
    "maniple.refused.log": "bad input, with its bytes and the reason",
    "maniple.dead.broker": "the same as `maniple.dead.log`; dispatchers end it with a result",
    "maniple.delay.<seconds>": "one tier of waiting; the tiers are below",
    "maniple.requests.<service>": "questions to a service; replicas compete",
    "maniple.lane.<lane>": "admitted tasks of a lane; agents compete",
    "maniple.lane.<lane>.suspect": "tasks of a lane that lost two agents; prefetch 1",
    "maniple.agent.<agent>": "that agent, if it serves a capability with affinity",
    "maniple.replies.<client>": "results for one SDK client; nobody can guess its address",
}
# The words of the others stand under the fields themselves, where `--help` has them too.
SETTINGS = {
    "management_url": "management API, with the login of the `agent` user; without it the registry "
    "closes no connections",
    "prefetch": "submissions held at once at most, besides long ones that wait; "
    "fewer of large ones",
    "retry_prefetch": "messages from `maniple.retry` held at once",
}
FAMILIES = (("maniple.delay.", "<seconds>"), ("maniple.requests.", "<service>"))
COMPUTED = {
    "instance": "service, host, random",
    "processes": "number of processors",
    "labels": "",
    "otlp_endpoint": "`OTEL_EXPORTER_OTLP_ENDPOINT`",
}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _match(names: Iterable[str], words: Iterable[str], what: str) -> None:
    if difference := set(names) ^ set(words):
        raise SystemExit(f"tools/generated_tables.py, {what}: {sorted(difference)}")


def exchanges() -> str:
    """Return the table of exchanges."""
    _match((exchange.name for exchange in topology.EXCHANGES), EXCHANGES, "EXCHANGES")
    rows = sorted(topology.EXCHANGES, key=lambda exchange: list(EXCHANGES).index(exchange.name))
    return _table(
        ("exchange", "type", "arguments", "published by: what"),
        ((f"`{e.name}`", _kind(e), _arguments(e.arguments), EXCHANGES[e.name]) for e in rows),
    )


def _kind(exchange: Exchange) -> str:
    return f"{exchange.kind}, internal" if exchange.internal else exchange.kind


def queues() -> str:
    """Return the table of queues, one line for each family."""
    families = dict(map(_family, [*topology.QUEUES, *_examples()]))
    _match(families, QUEUES, "QUEUES")
    return _table(
        ("queue", "type", "bound to", "arguments", "what"),
        (
            (f"`{name}`", queue.kind, _bindings(queue), _arguments(queue.arguments), QUEUES[name])
            for name, queue in families.items()
        ),
    )


def _examples() -> tuple[Queue, ...]:
    return (
        *topology.lane_queues("<lane>"),
        topology.agent_queue("<agent>"),
        topology.reply_queue("<client>", "<address>"),
    )


def _family(queue: Queue) -> tuple[str, Queue]:
    """Return the name of a queue and what it is like, with a word in place of what varies."""
    prefix, word = next((f for f in FAMILIES if queue.name.startswith(f[0])), ("", ""))
    if not word:
        return queue.name, queue
    arguments = {**queue.arguments}
    if prefix == "maniple.delay.":
        arguments["x-message-ttl"] = "<the same in milliseconds>"
    bindings = tuple((exchange, word) for exchange, _ in queue.bindings)
    return prefix + word, replace(queue, arguments=arguments, bindings=bindings)


def _bindings(queue: Queue) -> str:
    return "<br>".join(
        f"`{exchange}`" + (f" by `{key}`" if key else "") for exchange, key in queue.bindings
    )


def _arguments(arguments: Mapping[str, object]) -> str:
    return "<br>".join(f"`{name}={value}`" for name, value in sorted(arguments.items()))


def tiers() -> str:
    """Return the delay tiers."""
    return ", ".join(map(topology.tier_name, topology.DELAY_TIERS)) + " seconds.\n"


SERVICES: tuple[type[ServiceSettings], ...] = (
    RegistrySettings,
    DispatcherSettings,
    PolicySettings,
    AgentSettings,
)


def settings() -> str:
    """Return the table of variables: those of all processes first."""
    fields = {name: field for kind in SERVICES for name, field in kind.model_fields.items()}
    words = {name: _first_line(field.description) for name, field in fields.items()} | SETTINGS
    _match(fields, {name for name, text in words.items() if text}, "SETTINGS")
    return _table(
        ("variable", "of", "default", "what"),
        (
            (f"`{PREFIX}{name.upper()}`", _readers(name), _default(name), words[name])
            for name in fields
        ),
    )


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _readers(name: str) -> str:
    readers = [kind.service for kind in SERVICES if name in kind.model_fields]
    return "all" if len(readers) == len(SERVICES) else ", ".join(readers)


def _default(name: str) -> str:
    if name in COMPUTED:
        return COMPUTED[name]
    found: dict[str, list[str]] = {}
    for kind in SERVICES:
        if name in kind.model_fields:
            found.setdefault(_value(kind, name), []).append(kind.service)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{value} ({', '.join(kinds)})" for value, kinds in found.items())


def _value(kind: type[ServiceSettings], name: str) -> str:
    value: Any = kind.model_fields[name].default
    if value is PydanticUndefined or value in (None, "", ()):
        return ""
    return f"`{value}`"


TABLES: dict[str, Callable[[], str]] = {
    "exchanges": exchanges,
    "queues": queues,
    "tiers": tiers,
    "settings": settings,
}


def names(text: str) -> list[str]:
    """Return the names of the tables that a page has."""
    return [found[1] for found in _MARKED.findall(text)]


def rendered(text: str) -> str:
    """Return a page with its tables as the code has them."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text()
        after = rendered(before)
        if after != before:
            page.write_text(after)
            sys.stdout.write(f"{page}\n")
