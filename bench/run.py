"""Maniple and its peers on the same broker: rates, latencies, and what a task costs.

    make bench, or python -m bench.run; --full adds every section: growth, fairness and others

All sides run in turns, so that what else the machine does hits all; figures are medians. Tables
go to stdout, everything to bench/results.json, and `--pages` puts both into docs/performance.md,
with its plots. The last line is JSON. Compare ratios, not rates of different machines.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import (
    backlog,
    celery_side,
    dramatiq_side,
    efficiency,
    fairness,
    features,
    growth,
    stages,
    taskiq_side,
)
from bench.machine import machine
from bench.pages import write_pages
from bench.peers import Workers
from bench.quick import Plan, Step, measure
from bench.tables import aligned, tables
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from maniple_cli.output import error_console

RESULTS = Path(__file__).with_name("results.json")
SECTIONS: dict[str, Callable[[Step], Awaitable[dict[str, Any]]]] = {
    "growth": growth.measure,
    "efficiency": efficiency.measure,
    "backlog": backlog.measure,
    "fairness": fairness.measure,
    "features": features.measure,
    "stages": stages.section,
}
FULL = Plan(rounds=5, seconds=5.0, tasks=20_000, open_seconds=10.0)


def settings(plan: Plan) -> dict[str, str]:
    """Return how each side is set up: who reads the figures needs it."""
    size = plan.workers
    held = f"{size.processes} worker of {size.threads} threads, {size.held} prefetched"
    return {
        "maniple": f"{plan.dispatchers} dispatcher, {plan.agents} agents; quorum queues, "
        "persistent messages, confirms on every hop, every task recorded",
        "maniple, one task a message": "pika on asyncio; as the others, quorum queues",
        "celery": f"{held}; {celery_side.SETTINGS}",
        "dramatiq": f"{held}; {dramatiq_side.SETTINGS}; with confirms each is awaited",
        "taskiq": f"{size.processes} worker of {size.held} tasks at once, as many prefetched; "
        f"{taskiq_side.SETTINGS}",
    }


async def run(plan: Plan, sections: list[str]) -> dict[str, Any]:
    """Measure with progress on stderr, and return everything found."""
    about: dict[str, Any] = machine()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=error_console()) as progress:

        def stepping(name: str, total: int | None) -> Step:
            bar = progress.add_task(name, total=total)

            def step(said: str) -> None:
                progress.advance(bar)
                progress.console.print(said, highlight=False)

            return step

        found: dict[str, Any] = {"machine": about, "settings": settings(plan)}
        found |= await measure(plan, stepping("comparison", plan.steps))
        about["rabbitmq"] = found.pop("rabbitmq")
        for name in sections:
            found[name] = await SECTIONS[name](stepping(name, None))
    return found


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Maniple and its peers on the same broker.")
    parser.add_argument("--full", action="store_true", help="longer, with all sections")
    parser.add_argument("--section", action="append", choices=SECTIONS, default=[])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="that a run flat out takes, about")
    parser.add_argument("--pages", action="store_true", help="write docs/performance.md anew")
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--peer-processes", type=int, default=1, help="of workers, of each peer")
    parser.add_argument("--peer-threads", type=int, default=8, help="of each process")
    parser.add_argument("--peer-prefetch", type=int, default=16, help="for each thread")
    return parser.parse_args(arguments)


def _plan(given: argparse.Namespace) -> Plan:
    base = FULL if given.full else Plan()
    return Plan(
        rounds=given.rounds or base.rounds,
        seconds=given.seconds or base.seconds,
        tasks=base.tasks,
        open_seconds=base.open_seconds,
        agents=given.agents,
        dispatchers=given.dispatchers,
        workers=Workers(given.peer_processes, given.peer_threads, given.peer_prefetch),
    )


def main() -> None:
    """Run the comparison, print and keep it."""
    given = _options(sys.argv[1:])
    if os.environ.get("MANIPLE_BROKER_URL"):
        sys.exit("bench starts a broker of its own: unset MANIPLE_BROKER_URL")
    plan = _plan(given)
    for name, said in settings(plan).items():
        print(f"{name}: {said}", flush=True)
    found = asyncio.run(run(plan, list(SECTIONS) if given.full else given.section))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for table in tables(found).values():
        print(f"\n{aligned(*table)}", end="")
    if given.pages:
        write_pages(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
