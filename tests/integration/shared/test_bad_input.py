"""Bad input: each gets its code, its bytes are kept with the reason, and the dispatcher goes on."""

import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pika
import pika.data
import pytest

from maniple.codec import decode_value
from maniple.identifiers import new_id, refusal_id
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime import metric_names
from outsider import Outsider, find_in_stream
from recording import recording
from scraping import sample_name, scrape
from waiting import wait_until

GOOD = {"capability": "maniple.echo", "payload": 1}
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
BIG = json.dumps({"payload": "x" * (1024 * 1024)}).encode()

BAD: dict[str, tuple[str, Any, str]] = {
    "not JSON": ("maniple.echo", b"hello", "undecodable"),
    "empty": ("maniple.echo", b"", "undecodable"),
    "a number": ("maniple.echo", b"5", "invalid_task"),
    "wrong type": ("maniple.echo", {"timeout": "soon"}, "invalid_task"),
    "unknown field": ("maniple.echo", {"paylod": 1}, "unknown_field"),
    "missing capability": ("batch", {"payload": 1}, "invalid_task"),
    "bad characters": ("batch", {"capability": "Text Stats!"}, "invalid_task"),
    "bad characters in the key": ("Text Stats!", {"payload": 1}, "invalid_task"),
    "key and body disagree": ("maniple.echo", {"capability": "maniple.fail"}, "invalid_task"),
    "over 1 MiB": ("maniple.echo", BIG, "payload_too_large"),
    "1,001 tasks": ("batch", [GOOD] * 1001, "invalid_task"),
    "no tasks": ("batch", [], "invalid_task"),
    "deadline in the past": ("maniple.echo", {"deadline": PAST}, "deadline_exceeded"),
    "deadline and ttl": ("maniple.echo", {"deadline": PAST, "ttl": 5}, "invalid_task"),
    "not UTF-8": ("maniple.echo", b'{"payload": "\xff\xfe"}', "undecodable"),
    "NaN": ("maniple.echo", b'{"payload": NaN}', "undecodable"),
    "Infinity": ("maniple.echo", b'{"payload": [Infinity]}', "undecodable"),
    "20,000 brackets": (
        "maniple.echo",
        b'{"payload": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        "undecodable",
    ),
    "101 brackets": (
        "maniple.echo",
        b'{"payload":' + b"[" * 101 + b"]" * 101 + b"}",
        "undecodable",
    ),
    "reserved field": ("maniple.echo", {"not_before": "2027-01-01T00:00:00Z"}, "not_supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_rejected_with_its_code(outsider: Outsider, name: str) -> None:
    key, body, code = BAD[name]
    result = outsider.ask(key, body)
    assert (result["status"], result["error"]["code"]) == ("rejected", code), result
    assert result["error"]["message"]
    assert outsider.ask("maniple.echo", {"payload": name})["output"] == name


PROPERTIES: dict[str, tuple[dict[str, Any], str]] = {
    "a compressed body": ({"content_encoding": "gzip"}, "undecodable"),
    "a header that is not a string": ({"headers": {"traceparent": 5}}, "invalid_task"),
    "a header with bytes": ({"headers": {"note": b"\xff"}}, "invalid_task"),
    "the type of another message": ({"type": "maniple.result.v1"}, "invalid_task"),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_bad_properties_are_rejected_with_their_code(outsider: Outsider, name: str) -> None:
    properties, code = PROPERTIES[name]
    body = json.dumps({"payload": 1}).encode()
    if properties.get("content_encoding"):
        body = gzip.compress(body)
    result = outsider.ask("maniple.echo", body, **properties)
    assert (result["status"], result["error"]["code"]) == ("rejected", code)


@pytest.mark.parametrize("encoding", ["utf-8", "Identity", "binary"])
def test_what_clients_set_by_themselves_for_plain_bytes_is_taken(
    outsider: Outsider, encoding: str
) -> None:
    result = outsider.ask("maniple.echo", {"payload": 1}, content_encoding=encoding)
    assert result["output"] == 1


def test_a_byte_order_mark_before_the_json_is_dropped(outsider: Outsider) -> None:
    body = json.dumps({"payload": 1}).encode("utf-8-sig")
    assert outsider.ask("maniple.echo", body)["output"] == 1


def test_a_bad_member_gets_its_own_result_and_the_others_run(outsider: Outsider) -> None:
    members = [
        {"id": "good", **GOOD},
        {"id": "bad", "capability": "maniple.echo", "colour": "red"},
        {"id": "twice", **GOOD},
        {"id": "twice", **GOOD},
        {"id": "last", **GOOD},
    ]
    message = new_id()
    results = outsider.wait(outsider.send("batch", members, message_id=message), count=5)
    by_id = sorted((r["id"], r["status"], (r["error"] or {}).get("code")) for r in results)
    assert by_id == [
        ("bad", "rejected", "unknown_field"),
        ("good", "succeeded", None),
        ("last", "succeeded", None),
        (refusal_id(message, 3), "rejected", "invalid_task"),
        ("twice", "succeeded", None),
    ]


async def test_bad_input_under_the_id_of_a_task_does_not_end_it(
    cluster: Cluster, outsider: Outsider
) -> None:
    alive, message = new_id(), new_id()
    running = outsider.send(
        "maniple.sleep", [{"id": alive, "payload": {"seconds": 2}}, {"id": alive}]
    )
    for body in (b"garbage", {"id": alive, "colour": "red"}):
        refused = outsider.ask("maniple.sleep", body, message_id=message)
        assert (refused["status"], refused["error"]["detail"]["message_id"]) == (
            "rejected",
            message,
        )
    outsider.ask("maniple.sleep", b"garbage", message_id=alive)
    outsider.wait(running, count=2)
    async with recording(cluster.ready_info()["operator_url"]) as records:
        await wait_until(lambda: records.whole(alive))
        await wait_until(lambda: bool(records.results(refusal_id(message, None))))
        assert [record.status for record in records.results(alive)] == ["succeeded"]


def test_a_reply_to_into_maniple_is_refused_and_kept(cluster: Cluster, outsider: Outsider) -> None:
    marker = "forbidden-reply-to"
    outsider.send("maniple.echo", {"payload": 1}, reply_to="maniple.submit", message_id=marker)
    properties, body = kept(cluster, marker)
    assert properties.headers["code"] == "forbidden"
    assert json.loads(body) == {"payload": 1}


async def test_a_reply_to_that_does_not_exist_costs_only_the_reply(
    cluster: Cluster, outsider: Outsider
) -> None:
    dropped = sample_name(metric_names.REPLIES_DROPPED)
    agents = cluster.of_service("agent")
    before = scrape(agents)[dropped]
    marker = new_id()
    outsider.send("maniple.echo", {"payload": 1}, reply_to="no-such-queue", message_id=marker)
    assert outsider.ask("maniple.echo", {"payload": 2})["output"] == 2
    await wait_until(lambda: scrape(agents)[dropped] > before)
    async with recording(cluster.ready_info()["operator_url"]) as records:
        await wait_until(lambda: records.whole(marker))
        (record,) = records.results(marker)
    assert (record.status, decode_value(record.output)) == ("succeeded", 1)


def test_refused_bytes_are_kept_with_the_reason(cluster: Cluster, outsider: Outsider) -> None:
    outsider.ask("maniple.echo", b"\x00garbage", message_id="kept-bytes")
    properties, body = kept(cluster, "kept-bytes")
    assert body == b"\x00garbage"
    assert properties.headers["code"] == "undecodable"
    assert properties.headers["reason"]


def test_of_a_body_over_the_limit_the_head_and_hash_are_kept(
    cluster: Cluster, outsider: Outsider
) -> None:
    outsider.ask("maniple.echo", BIG, message_id="big-bytes")
    properties, body = kept(cluster, "big-bytes")
    assert body == BIG[: 64 * 1024]
    assert properties.headers["sha256"] == hashlib.sha256(BIG).hexdigest()
    assert properties.headers["truncated"] == "true"


def test_properties_that_are_not_utf8_do_not_stop_a_dispatcher(
    cluster: Cluster, outsider: Outsider
) -> None:
    reconnects = sample_name(metric_names.RECONNECTS)
    dispatchers = cluster.of_service("dispatcher")
    before = scrape(dispatchers).get(reconnects, 0.0)
    for name in ("correlation_id", "message_id", "app_id"):
        raw_property(outsider, name)
    assert outsider.ask("maniple.echo", {"payload": "still here"})["output"] == "still here"
    assert scrape(dispatchers).get(reconnects, 0.0) == before


def raw_property(outsider: Outsider, name: str) -> None:
    """Publish a task with a property that is not UTF-8."""
    original = pika.data.encode_short_string

    def short_string(pieces: list[bytes], value: Any) -> int:
        if value != "raw":
            return int(original(pieces, value))
        pieces += [b"\x03", b"\xff\xfe\xfd"]
        return 4

    properties = pika.BasicProperties()
    setattr(properties, name, "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pika.data, "encode_short_string", short_string)
        outsider.channel.basic_publish("maniple.tasks", "maniple.echo", b"{}", properties)


def kept(cluster: Cluster, message_id: str) -> tuple[Any, bytes]:
    """Return what `maniple.refused.log` has of a message, once it is there."""
    return find_in_stream(
        cluster.ready_info()["operator_url"],
        "maniple.refused.log",
        lambda properties, _: properties.headers.get("message_id") == message_id,
    )


def test_a_field_name_longer_than_a_frame_costs_no_connection(
    cluster: Cluster, outsider: Outsider
) -> None:
    dispatchers, reconnects = cluster.of_service("dispatcher"), sample_name(metric_names.RECONNECTS)
    before = scrape(dispatchers).get(reconnects, 0.0)
    result = outsider.ask("maniple.echo", {"x" * 200_000: 1})
    assert (result["status"], result["error"]["code"]) == ("rejected", "unknown_field")
    assert len(result["error"]["message"]) <= 1000
    assert outsider.ask("maniple.echo", {"payload": 1})["output"] == 1
    assert scrape(dispatchers).get(reconnects, 0.0) == before


def test_two_long_message_ids_with_one_beginning_are_two_tasks(outsider: Outsider) -> None:
    beginning = "m" * 199
    one = outsider.ask("maniple.echo", {"payload": 1}, message_id=beginning + "1")
    two = outsider.ask("maniple.echo", {"payload": 2}, message_id=beginning + "2")
    assert one["id"] != two["id"]
    assert max(len(one["id"]), len(two["id"])) <= 128
