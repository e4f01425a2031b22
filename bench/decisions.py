"""What the decision about a task costs its dispatcher, with no policy and with two hundred.

`uv run python -m bench.decisions`: µs of processor time a task, medians of interleaved rounds; the
last line is JSON. No server is needed. Measured is what happens between the decoded task and its
lane: which policies hold, and what they make of it, in a dispatcher that owns its limits; the ratio
is to decoding a submission of one task. The 200 are of all kinds; a route, a rate limit and a
circuit breaker hold for the task.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast

from maniple.clock import Clock
from maniple.codec import decode_submission
from maniple.messages import Envelope
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.messages import DispatcherReport
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.result_cache import ResultCache
from maniple_policies import PolicySet, parse_policy
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics

ROUNDS = 15
TASKS = 5000
ENVELOPES = 100  # so few that they stay in the processor's cache, as one that was just made is
POLICIES = 200
BOUND = 10.0
CAPABILITY = "text.stats"
LABELS = {"region": "eu-1", "priority": "batch"}
BODY = (
    b'{"capability":"text.stats","id":"0193a7c0-0000-7000-8000-000000000001",'
    b'"payload":{"text":"to be or not to be"},"labels":{"region":"eu-1","priority":"batch"}}'
)
HOLDING: tuple[dict[str, Any], ...] = (
    {"kind": "rate_limit", "spec": {"limit": 1_000_000, "per": ["tenant"]}},
    {"kind": "circuit_breaker", "spec": {"consecutive": 5}},
    {"kind": "route", "spec": {"variants": [{"weight": 99}, {"variant": "canary", "weight": 1}]}},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"kind": "rate_limit", "spec": {"limit": 10}, "match": {"tenant": "acme-{}"}},
    {"kind": "bulkhead", "spec": {"max_in_flight": 10}, "match": {"tenant": "acme-{}"}},
    {"kind": "circuit_breaker", "spec": {"consecutive": 5}, "match": {"capability": "image.x{}.*"}},
    {"kind": "fallback", "spec": {"value": 1}, "match": {"capability": "image.x{}.*"}},
    {"kind": "route", "spec": {"variants": [{"weight": 1}]}, "match": {"labels": {"user": "u{}"}}},
    {"kind": "mirror", "spec": {"variant": "next", "percent": 1}, "match": {"region": "us-{}"}},
    {"kind": "retry", "spec": {"attempts": 3}, "match": {"tenant": "t-{}*"}},
    {"kind": "timeout", "spec": {"seconds": 30}, "match": {"capability": "audio.*.{}"}},
)


def policy_set(policies: int) -> PolicySet:
    """Return so many policies, of which three hold for the task; none if it is 0."""
    if not policies:
        return PolicySet()
    documents = [
        {**one, "name": "holds", "match": {"capability": "text.*"}, "version": 1} for one in HOLDING
    ]
    for number in range(policies - len(HOLDING)):
        template = json.dumps(OTHERS[number % len(OTHERS)])
        document = json.loads(template.replace('{}"', f'{number}"').replace("{}", str(number)))
        documents.append({**document, "name": f"other-{number}", "version": 1})
    return PolicySet(parse_policy(one) for one in documents)


class _Nowhere:
    """Lanes that lead nowhere."""

    def __init__(self) -> None:
        self.sent = 0

    def ends(self, _envelope: Envelope, _source: Settlement, _now: datetime) -> bool:
        return False

    def admitted(self, _envelope: Envelope, _source: Settlement, then: Callable[[], None]) -> None:
        then()

    def send_task(self, _envelope: Envelope, _source: Settlement) -> None:
        self.sent += 1


class _Source:
    """What brings a task that is nobody else's and waits for as long as it likes."""

    alive = True
    expires = False


def deciding(policies: PolicySet) -> Callable[[], None]:
    """Return what decides about one task."""
    spec = CircuitBreakerSpec(consecutive=5)
    fleet = Coordinator("one", LeaseOwner(lambda _: spec), time.monotonic())
    fleet.on_report(DispatcherReport(dispatcher="one", ready=True), time.monotonic())
    lanes = _Nowhere()
    now = datetime.now(UTC)
    gate = Pipeline(
        cast("LanePublisher", lanes),
        fleet,
        policies,
        cast("ResultPublisher", None),
        good=ResultCache(),
        metrics=Metrics(),
        clock=Clock(now=lambda: now),
    )
    ids = [f"0193a7c0-0000-7000-8000-{number:012d}" for number in range(ENVELOPES)]
    envelopes = [
        Envelope(
            id=task,
            capability=CAPABILITY,
            lane=CAPABILITY,
            labels=LABELS,
            submitted_at=now,
            deadline=now + timedelta(days=1),
        )
        for task in ids
    ]
    source = cast("Settlement", _Source())
    places = count()

    def decide() -> None:
        envelope = envelopes[next(places) % ENVELOPES]
        resolved = policies.resolve(envelope.capability, envelope.tenant, LABELS, envelope.id)
        gate.admit(envelope, resolved, source)

    decide()
    assert lanes.sent == 1  # noqa: S101 - or something else would be measured
    return decide


def measured(work: Callable[[], object]) -> float:
    """Return the µs of processor time that `work` takes."""
    started = time.process_time()
    for _ in range(TASKS):
        work()
    return (time.process_time() - started) / TASKS * 1e6


def run(rounds: int, policies: int) -> dict[str, float]:
    """Measure all in turn, `rounds` times, and return each one's median."""
    work: Mapping[str, Callable[[], object]] = {
        "decode": lambda: decode_submission(BODY),
        "no_policy": deciding(policy_set(0)),
        "policies": deciding(policy_set(policies)),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, job in work.items():
            times[name].append(measured(job))
    return {name: round(statistics.median(found), 2) for name, found in times.items()}


def main() -> None:
    """Print the medians as lines and, last, as JSON; exit with 1 above 10 µs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--policies", type=int, default=POLICIES)
    options = parser.parse_args()
    found = run(options.rounds, options.policies)
    print(f"decoding a task       {found['decode']:6.2f} µs")
    print(f"deciding, no policy   {found['no_policy']:6.2f} µs")
    print(f"deciding, {options.policies:3} policies {found['policies']:6.2f} µs")
    print(json.dumps({**found, "ratio_to_decode": round(found["policies"] / found["decode"], 1)}))
    raise SystemExit(found["policies"] > BOUND)


if __name__ == "__main__":
    main()
