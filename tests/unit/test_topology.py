import pytest

from maniple import topology
from maniple.topology import EXCHANGES, QUEUES, Queue

ALL_QUEUES = (*QUEUES, *topology.lane_queues("text.stats"), topology.agent_queue("agent-1"))
QUORUM = [queue for queue in ALL_QUEUES if queue.kind == "quorum"]
DEAD_LETTERED = [q for q in QUORUM if "x-dead-letter-exchange" in q.arguments]


def test_names_are_unique_and_of_our_own() -> None:
    names = [exchange.name for exchange in EXCHANGES] + [queue.name for queue in QUEUES]
    assert all(name.startswith(topology.RESERVED_PREFIX) for name in names)
    assert len({e.name for e in EXCHANGES}) == len(EXCHANGES)
    assert len({q.name for q in QUEUES}) == len(QUEUES)


def test_every_binding_leads_from_an_exchange_that_is_declared() -> None:
    known = {exchange.name for exchange in EXCHANGES}
    for queue in (*ALL_QUEUES, topology.reply_queue("c", "secret")):
        assert {exchange for exchange, _ in queue.bindings} <= known, queue.name


def test_an_alternate_exchange_is_declared_before_who_names_it() -> None:
    names = [exchange.name for exchange in EXCHANGES]
    assert any(exchange.alternate for exchange in EXCHANGES)
    for exchange in EXCHANGES:
        if exchange.alternate:
            assert names.index(exchange.alternate) < names.index(exchange.name)


@pytest.mark.parametrize("queue", DEAD_LETTERED, ids=lambda queue: queue.name)
def test_what_is_dead_lettered_is_never_dropped(queue: Queue) -> None:
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish"
    assert queue.arguments["x-dead-letter-exchange"] in {e.name for e in EXCHANGES}


def test_lanes_and_intake_have_limits_and_retry_has_no_length() -> None:
    by_name = {queue.name: queue.arguments for queue in ALL_QUEUES}
    assert by_name["maniple.submit"]["x-delivery-limit"] == 50
    assert by_name["maniple.retry"]["x-delivery-limit"] == 50
    assert "x-max-length" not in by_name["maniple.retry"]
    for name in ("maniple.lane.text.stats", "maniple.lane.text.stats.suspect"):
        assert by_name[name]["x-delivery-limit"] == 100
        assert "x-max-length" in by_name[name]


def test_records_outlive_the_longest_deadline() -> None:
    age = str(topology.RECORDS.arguments["x-max-age"])
    assert age.endswith("D")
    assert int(age[:-1]) >= 8


@pytest.mark.parametrize("seconds", topology.DELAY_TIERS)
def test_a_delay_tier_waits_its_time_and_comes_back_on_retry(seconds: float) -> None:
    queue = topology.delay_queue(seconds)
    assert queue.arguments["x-message-ttl"] == seconds * 1000
    assert queue.arguments["x-dead-letter-exchange"] == topology.RETRY.name
    assert queue.bindings == ((topology.DELAY.name, topology.tier_name(seconds)),)


def test_lanes_are_named_by_capability_and_variant() -> None:
    assert topology.lane_name("text.stats") == "text.stats"
    assert topology.lane_name("text.stats", "canary") == "text.stats@canary"
    assert topology.suspect_lane("text.stats@eu") == "text.stats@eu.suspect"


def test_the_reply_queue_of_a_client_is_bounded_and_ends_by_itself() -> None:
    queue = topology.reply_queue("c1", "secret")
    assert queue.name == "maniple.replies.c1"
    assert queue.bindings == ((topology.REPLIES.name, "secret"),)
    assert {"x-max-length", "x-expires"} <= set(queue.all_arguments)
