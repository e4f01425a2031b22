"""What decoding and encoding a bundle costs: msgspec structs beside equivalent pydantic models.

`uv run python -m bench.codec`: µs of processor time for each task of a bundle of 128, medians of
interleaved rounds; the last line is JSON. No server is needed. docs/decisions/0001 stands on it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw
from pydantic import BaseModel, ConfigDict, TypeAdapter

from maniple import codec
from maniple.amqp.batching import MAX_ITEMS
from maniple.errors import ErrorCode
from maniple.messages import Envelope

PAYLOAD = {"path": "lib/python3.11/asyncio/base_events.py", "options": {"depth": 3, "tags": ["a"]}}
ROUNDS = 15
REPEATS = 20


class RetryPlanModel(BaseModel):
    """The twin of `maniple.messages.RetryPlan`."""

    model_config = ConfigDict(frozen=True)

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    codes: tuple[ErrorCode, ...] = ()


class EnvelopeModel(BaseModel):
    """The twin of `maniple.messages.Envelope`; pydantic has no undecoded JSON, so `Any`."""

    model_config = ConfigDict(frozen=True)

    id: str
    capability: str
    submitted_at: datetime
    deadline: datetime
    lane: str = ""
    payload: Any = None
    tenant: str = "default"
    labels: dict[str, str] = {}
    affinity: str | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    retry: RetryPlanModel | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    dispatched_at: datetime | None = None
    attempt: int = 1
    lost: int = 0
    suspected: int = 0
    waits: int = 0
    accepted: bool = False
    policies: dict[str, int] = {}


def bundle() -> bytes:
    """Return the body of a full bundle, as a dispatcher sends it."""
    now = datetime.now(UTC)
    payload = Raw(codec.encode(PAYLOAD))
    envelopes = [
        Envelope(
            id=f"0193a7c0-0000-7000-8000-{number:012d}",
            capability="source.analyse",
            lane="source.analyse",
            submitted_at=now,
            dispatched_at=now,
            deadline=now + timedelta(days=1),
            payload=payload,
            reply_to="maniple.replies.0193a7c0-0000-7000-8000-000000000000",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            accepted=True,
            policies={"retry/default": 3},
        )
        for number in range(MAX_ITEMS)
    ]
    return codec.join([codec.encode(envelope) for envelope in envelopes])


def measured(work: Callable[[], object]) -> float:
    """Return the µs of processor time that `work` takes for one task."""
    started = time.process_time()
    for _ in range(REPEATS):
        work()
    return (time.process_time() - started) / REPEATS / MAX_ITEMS * 1e6


def jobs(body: bytes) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    adapter = TypeAdapter(list[EnvelopeModel])
    structs, models = codec.decode_envelopes(body), adapter.validate_json(body)
    return {
        "msgspec_decode": lambda: codec.decode_envelopes(body),
        "pydantic_decode": lambda: adapter.validate_json(body),
        "msgspec_encode": lambda: codec.join([codec.encode(struct) for struct in structs]),
        "pydantic_encode": lambda: adapter.dump_json(models, exclude_defaults=True),
    }


def run(rounds: int) -> dict[str, float]:
    """Measure all jobs in turn, `rounds` times, and return each one's median."""
    work = jobs(bundle())
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, job in work.items():
            times[name].append(measured(job))
    return {name: round(statistics.median(found), 3) for name, found in times.items()}


def main() -> None:
    """Print the medians as lines and, last, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    found = run(parser.parse_args().rounds)
    for name, value in found.items():
        print(f"{name:<16} {value:6.2f} µs a task")
    for way in ("decode", "encode"):
        found[f"{way}_ratio"] = round(found[f"pydantic_{way}"] / found[f"msgspec_{way}"], 1)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
