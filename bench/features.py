"""What a task pays for a feature: tracing, each kind of policy, a reply, a confirm of its own.

    make bench ARGS='--section features'

Processor time of all processes and the broker, beside the same without the feature, in turns in one
cluster, or in two where the feature is a setting. Records are not among them: every task is
recorded, so what they cost is in every figure.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

from bench import handlers
from bench.figures import microseconds
from bench.peers import Workers
from bench.sides import Bench, running_bench
from bench.tracing import drop

from maniple_cli.control import ask_over, operator_plane
from maniple_cli.dev_cluster.cluster import ClusterOptions

ROUNDS = 5
SECONDS = 2.0
TRACED = (0.01, 1.0)
IN_FORCE = 1.0  # seconds until every process has a policy
GENEROUS: dict[str, dict[str, Any]] = {
    "rate_limit": {"limit": 1_000_000},
    "bulkhead": {"max_in_flight": 1_000_000, "over": "wait"},
    "circuit_breaker": {"ratio": 0.5, "window": 60, "minimum": 20, "open_for": 30},
    "retry": {"attempts": 3},
    "timeout": {"seconds": 60},
    "ttl": {"seconds": 3600},
    "fallback": {"on": ["circuit_open"], "value": "none"},
    "route": {"variants": [{"weight": 1}]},
    "mirror": {"variant": "next", "percent": 0.001},
}
"""A policy of each kind that decides about every task and never interferes."""
Cost = Callable[[], Awaitable[float]]


async def measure(step: Any) -> dict[str, list[dict[str, Any]]]:
    """Measure what each feature costs."""
    return {
        "tracing": await _tracing(step),
        "policy": await _policies(step),
        "message": await _messages(step),
    }


async def cost(bench: Bench, kind: str, do: str, **fields: Any) -> float:
    """Return the µs of processor time a task, of about two seconds' worth of tasks."""
    seconds = (await bench.ask(kind, do, count=2000, **fields))[0]["seconds"]
    count = max(2000, int(2000 / seconds * SECONDS))
    _, used = await bench.ask(kind, do, count=count, **fields)
    return microseconds(used, count)["total"]


async def in_turns(without: Cost, with_it: Cost) -> dict[str, float]:
    """Return medians without and with a feature, and the median ratio of the rounds."""
    pairs = [(await without(), await with_it()) for _ in range(ROUNDS)]
    return {
        "µs a task without": round(median(one for one, _ in pairs), 1),
        "with": round(median(other for _, other in pairs), 1),
        "ratio": round(median(other / one for one, other in pairs), 3),
    }


async def _messages(step: Any) -> list[dict[str, Any]]:
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "a reply": ("replied", {}),
        "confirms": ("unreplied", {"confirmed": True}),
    }
    found = []
    async with running_bench(_options(), ("plain",), Workers()) as bench:
        for name, (do, fields) in cases.items():
            one = await in_turns(
                partial(cost, bench, "plain", "unreplied"),
                partial(cost, bench, "plain", do, **fields),
            )
            found.append({"feature": name, **one})
            step(f"{name}: {one['ratio']} of the processor time without it")
    return found


async def _policies(step: Any) -> list[dict[str, Any]]:
    found = []
    async with running_bench(_options(), ("sdk",), Workers()) as bench:
        for kind, spec in GENEROUS.items():
            document = {"kind": kind, "name": "bench", "spec": spec}
            one = await in_turns(
                partial(_with_policy, bench, None), partial(_with_policy, bench, document)
            )
            found.append({"feature": kind, **one})
            step(f"{kind}: {one['ratio']} of the processor time without it")
    return found


async def _with_policy(bench: Bench, document: dict[str, Any] | None) -> float:
    """Return the cost of a task with this policy alone in force, or with none."""
    async with operator_plane(bench.cluster.ready_info()["operator_url"]) as plane:
        for one in (await ask_over(plane, "policy", "policy.list", {}))["policies"]:
            name = {key: one["policy"][key] for key in ("kind", "name")}
            await ask_over(plane, "policy", "policy.delete", name)
        if document:
            await ask_over(plane, "policy", "policy.apply", {"document": document})
    await asyncio.sleep(IN_FORCE)
    return await cost(bench, "sdk", "flat")


async def _tracing(step: Any) -> list[dict[str, Any]]:
    found = []
    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running_bench(_options(), ("sdk",), Workers()) as without:
        for share in TRACED:
            to = {"MANIPLE_OTLP_ENDPOINT": endpoint}
            env = {"agent": to, "dispatcher": {**to, "MANIPLE_TRACE_RATIO": str(share)}}
            async with running_bench(_options(env), ("sdk",), Workers()) as traced:
                one = await in_turns(
                    partial(cost, without, "sdk", "flat"), partial(cost, traced, "sdk", "flat")
                )
            found.append({"feature": f"{share:.0%} sampled", **one})
            step(f"tracing {share:.0%}: {one['ratio']} of the processor time without it")
    return found


def _options(env: Mapping[str, Mapping[str, str]] | None = None) -> ClusterOptions:
    return ClusterOptions(agents=2, handlers=(handlers.__name__,), env=env or {})
