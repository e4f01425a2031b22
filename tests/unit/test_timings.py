"""`maniple.timings`: what cannot be made, what a scale makes of the rest, and what is told."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple.timing_rules import RULES, SETTINGS
from maniple.timings import (
    LEAST_SCALE,
    MOST_SCALE,
    Amqp,
    Bounds,
    Catalog,
    Expiry,
    Fencing,
    Heartbeats,
    Holding,
    Leading,
    Peers,
    Policies,
    Queues,
    Reports,
    Timings,
    Watching,
    WrongTimings,
)
from maniple_runtime.control.agent_timings import AgentTimings

SCALES = st.floats(LEAST_SCALE, MOST_SCALE)


SHARES = ("heartbeats.jitter", "amqp.silence")
OUTSIDE = {
    "amqp.unanswered": 40.0,
    "amqp.connect": 4.0,
    "amqp.open": 10.0,
    "amqp.longest_open": 30.0,
    "bounds.unwell": 2.0,
    "catalog.ttl": 1.0,
    "catalog.http_interval": 1.0,
    "catalog.http_timeout": 1.0,
    "catalog.gone": 2.0,
    "clocks.agree": 2.0,
    "clocks.behind": 0.1,
    "holding.orphaned": 6.0,
    "queues.leftover": 6.0,
    "reports.heard": 7.0,
}
"""What no scale makes shorter."""


def flat(timings: Timings) -> dict[str, float]:
    return {
        f"{group.name}.{one.name}": getattr(getattr(timings, group.name), one.name)
        for group in fields(timings)
        for one in fields(getattr(timings, group.name))
    }


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"bounds": Bounds(failed=6.0)}, ("fencing.stopped (8.25 s)", "MANIPLE_FAILED_AFTER")),
        (
            {"bounds": Bounds(unreachable=7.0)},
            ("MANIPLE_UNREACHABLE_AFTER", "fencing.fenced (6 s)"),
        ),
        ({"bounds": Bounds(unreachable=4.0)}, ("heartbeats.longest", "watching.longest_step")),
        ({"bounds": Bounds(forgotten=9.0)}, ("MANIPLE_FAILED_AFTER", "MANIPLE_FORGOTTEN_AFTER")),
        ({"bounds": Bounds(hopeless=11.0)}, ("bounds.hopeless", "standby.reconnect_grace")),
        ({"bounds": Bounds(reconnect=1.5)}, ("bounds.starving", "bounds.reconnect")),
        ({"heartbeats": Heartbeats(confirm=3.0)}, ("heartbeats.confirm", "heartbeats.period")),
        ({"fencing": Fencing(exclusive=5.0)}, ("fencing.fenced", "fencing.exclusive")),
        ({"fencing": Fencing(exclusive=8.8)}, ("fencing.stopped (9.05 s)", "bounds.failed")),
        (
            {"amqp": Amqp(heartbeat=4)},
            ("fencing.stopped and amqp.tick (9.25 s)", "2 times amqp.heartbeat (8 s)"),
        ),
        (
            {"amqp": Amqp(silence=1.6)},
            ("amqp.silent and amqp.tick and amqp.tick (10 s)", "2 times amqp.heartbeat (10 s)"),
        ),
        ({"amqp": Amqp(backoff=3.0)}, ("heartbeats.longest and amqp.backoff", "fencing.fenced")),
        ({"catalog": Catalog(ttl=5.5)}, ("heartbeats.confirm", "catalog.ttl")),
        ({"catalog": Catalog(refresh=3.0)}, ("2 times catalog.refresh", "catalog.ttl")),
        ({"catalog": Catalog(http_interval=6.0)}, ("catalog.http_interval", "bounds.unwell")),
        ({"leading": Leading(lease=6.0)}, ("leading.lease", "catalog.ttl")),
        (
            {"amqp": Amqp(silence=1.1)},
            ("amqp.heartbeat and amqp.tick (6 s)", "amqp.silent"),
        ),
        ({"amqp": Amqp(confirm=15.0)}, ("queues.patience and queues.cancel", "amqp.confirm")),
        ({"queues": Queues(reply=295.0)}, ("queues.patience and queues.reply", "amqp.confirm")),
        ({"queues": Queues(leftover=15.0)}, ("3 times amqp.heartbeat", "queues.leftover")),
        ({"expiry": Expiry(look=2.0)}, ("3 times expiry.look (6 s)", "expiry.every (5 s)")),
        ({"expiry": Expiry(settle=4.0)}, ("queues.patience", "expiry.settle")),
        ({"expiry": Expiry(longest=4.0)}, ("expiry.every", "expiry.longest")),
        ({"reports": Reports(period=1.0)}, ("2 times reports.period (2 s)", "reports.lately")),
        (
            {"reports": Reports(confirm=24.5)},
            ("reports.period and reports.confirm (25 s)", "reports.heard"),
        ),
        ({"reports": Reports(heard=15.0)}, ("3 times amqp.heartbeat", "reports.heard")),
        ({"peers": Peers(alive=0.8)}, ("peers.unheard (1 s)", "peers.alive (0.8 s)")),
        ({"peers": Peers(answer=2.5)}, ("peers.answer", "peers.alive")),
        ({"peers": Peers(held=1.2)}, ("peers.listens and peers.tells_all", "peers.held")),
        ({"policies": Policies(check=50.0)}, ("2 times policies.check", "policies.stale")),
        (
            {"holding": Holding(orphaned=14.0)},
            ("amqp.heartbeat and amqp.tick (21 s)", "amqp.silent and holding.orphaned (21 s)"),
        ),
        ({"watching": Watching(echo=2.0)}, ("heartbeats.confirm", "watching.echo")),
        ({"watching": Watching(echo=9.5)}, ("watching.echo", "bounds.failed")),
        ({"holding": Holding(longest=0.5)}, ("holding.dissolve", "holding.longest")),
    ],
)
def test_what_would_break_a_promise_cannot_be_made_and_both_times_are_named(
    wrong: dict[str, Any], names: tuple[str, str]
) -> None:
    with pytest.raises(WrongTimings) as error:
        Timings(**wrong)
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_is_a_number_above_0(value: float) -> None:
    with pytest.raises(WrongTimings, match=r"leading\.look must be a number above 0"):
        Timings(leading=Leading(look=value))


def test_every_rule_and_setting_names_times_that_exist() -> None:
    known = {*flat(Timings()), "heartbeats.longest", "fencing.stopped", "amqp.silent"}
    named = {name for rule in RULES for name in (*rule.less, *rule.more)} | {*SETTINGS}
    assert named <= known


@given(SCALES)
def test_every_scale_makes_valid_times_that_are_no_shorter_than_the_outside_allows(
    factor: float,
) -> None:
    scaled, before = flat(Timings().scaled(factor)), flat(Timings())
    assert scaled.pop("amqp.heartbeat") == max(1, math.ceil(5 * factor - 1e-9))
    for name in SHARES:
        assert scaled.pop(name) == before[name]
    for name, seconds in scaled.items():
        assert seconds == pytest.approx(max(OUTSIDE.get(name, 0.0), before[name] * factor))


@given(SCALES, st.floats(0.5, 50), st.floats(0.5, 50))
def test_whatever_is_made_stops_what_is_exclusive_before_others_may_have_it(
    factor: float, unreachable: float, failed: float
) -> None:
    try:
        made = Timings().scaled(factor).bounded(unreachable=unreachable, failed=failed)
    except WrongTimings:
        return
    assert made.fencing.stopped < made.bounds.failed
    # The broker, which may have heard its last word a tick before, waits for two heartbeats.
    requeued = 2 * made.amqp.heartbeat - made.amqp.tick
    assert max(made.fencing.stopped, made.amqp.silent + made.amqp.tick) < requeued
    assert made.heartbeats.longest < made.bounds.unreachable < made.fencing.fenced


def test_a_scale_of_1_changes_nothing_and_others_are_refused() -> None:
    assert Timings().scaled(1.0) == Timings()
    for factor in (0.0, LEAST_SCALE / 2, MOST_SCALE * 2, float("nan")):
        with pytest.raises(WrongTimings, match="a scale is from"):
            Timings().scaled(factor)


def test_a_heartbeat_of_amqp_is_rounded_up() -> None:
    assert [Timings().scaled(f).amqp.heartbeat for f in (0.1, 0.2, 0.21, 0.5, 2.0)] == [
        *(1, 1, 2, 3, 10)
    ]


def test_the_digest_is_that_of_all_times() -> None:
    first = Timings()
    assert first.digest == Timings().digest
    others = [
        first.scaled(0.5),
        first.bounded(failed=12.0),
        replace(first, leading=replace(first.leading, lock_delay=2.0)),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4


def test_what_is_told_of_an_agent_is_when_the_last_of_it_is_over() -> None:
    told = AgentTimings.of_timings(Timings().scaled(0.5))
    assert (told.heartbeat, told.unreachable, told.fenced) == (1.65, 2.25, 3.0)
    assert (told.exclusive, told.failed) == (4.125, 4.5)


@given(SCALES)
def test_a_connection_is_dead_after_so_many_looks_whatever_the_scale(factor: float) -> None:
    times = Timings().scaled(factor).amqp
    assert times.ticks(times.silent) * times.tick > times.heartbeat
    assert times.ticks(times.confirm) == 30


def test_the_times_of_a_connection_that_nobody_has_told_any_are_those_of_the_protocol() -> None:
    times = Amqp()
    assert (times.heartbeat, times.silent, times.ticks(times.silent)) == (5, 7.0, 7)
