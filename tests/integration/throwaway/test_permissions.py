"""What the broker itself refuses to users who are not ours, tried with a plain client."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from maniple import topology
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from needs import CONSUL, RABBITMQ, need

# pika's stubs give wrong types for arguments and bodies.
Channel = Any
Connection = Any
REFUSED = 403
LANES = topology.lane_queues("text.stats")
THROWAWAY_SECONDS = 0.5
Connect = Callable[[str], Connection]


@pytest.fixture(scope="module")
async def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RabbitMQServer]:
    """A broker of this module's own, because the topology is deleted here."""
    server = RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"), environment="permissions")
    need(RABBITMQ, CONSUL)
    await server.start()
    yield server
    await server.stop(THROWAWAY_SECONDS)


@pytest.fixture
def connect(rabbitmq: RabbitMQServer) -> Iterator[Connect]:
    """Open connections as a role; all are closed after the test."""
    opened: list[Connection] = []

    def as_role(role: str) -> Connection:
        opened.append(BlockingConnection(pika.URLParameters(rabbitmq.url(role))))
        return opened[-1]

    yield as_role
    for connection in opened:
        connection.close()


@pytest.fixture(scope="module")
def topology_declared(rabbitmq: RabbitMQServer) -> None:
    """What every service declares; it takes a second, and so is done once."""
    connection = BlockingConnection(pika.URLParameters(rabbitmq.url("dispatcher")))
    declare(connection.channel(), (*topology.QUEUES, *LANES))
    connection.close()


@pytest.fixture
def dispatcher(topology_declared: None, connect: Connect) -> Channel:
    """A dispatcher's channel, with the topology declared."""
    del topology_declared
    channel = connect("dispatcher").channel()
    channel.confirm_delivery()
    channel.queue_purge("maniple.submit")
    return channel


def declare(channel: Channel, queues: Iterable[topology.Queue]) -> None:
    for exchange in topology.EXCHANGES:
        channel.exchange_declare(
            exchange.name,
            exchange.kind,
            durable=True,
            internal=exchange.internal,
            arguments=exchange.arguments,
        )
    for queue in queues:
        channel.queue_declare(queue.name, durable=True, arguments=queue.all_arguments)
        for exchange_name, key in queue.bindings:
            channel.queue_bind(queue.name, exchange_name, key)


def delete_topology(channel: Channel) -> None:
    for queue in (*topology.QUEUES, *LANES):
        channel.queue_delete(queue.name)
    for exchange in topology.EXCHANGES:
        channel.exchange_delete(exchange.name)


def assert_refused(connection: Connection, attempt: Callable[[Channel], Any]) -> None:
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
        attempt(channel)
    assert refusal.value.reply_code == REFUSED


FORBIDDEN_TO_OUTSIDERS: dict[str, Callable[[Channel], Any]] = {
    "publish to the lanes": lambda c: c.basic_publish("maniple.lanes", "text.stats", b"{}"),
    "publish to control": lambda c: c.basic_publish("maniple.control", "all", b"{}"),
    "publish to results": lambda c: c.basic_publish("maniple.results", "text.stats", b"{}"),
    "publish to retry": lambda c: c.basic_publish("maniple.retry", "", b"{}"),
    "publish to requests": lambda c: c.basic_publish("maniple.requests", "registry", b"{}"),
    "publish past the exchange": lambda c: c.basic_publish("", "maniple.submit", b"{}"),
    "read submissions": lambda c: c.basic_get("maniple.submit"),
    "read a lane": lambda c: c.basic_get("maniple.lane.text.stats"),
    "read the records": lambda c: c.basic_get("maniple.records"),
    "consume submissions": lambda c: c.basic_consume("maniple.submit", lambda *_: None),
    "declare a queue of ours": lambda c: c.queue_declare("maniple.x"),
    "declare an exchange of ours": lambda c: c.exchange_declare("maniple.x"),
    "take a reply queue of the SDK": lambda c: c.queue_declare("maniple.replies.x"),
    "purge submissions": lambda c: c.queue_purge("maniple.submit"),
    "delete submissions": lambda c: c.queue_delete("maniple.submit"),
    "delete the lanes": lambda c: c.exchange_delete("maniple.lanes"),
    "reach lanes by dead letters": lambda c: c.queue_declare(
        "thief", arguments={"x-dead-letter-exchange": "maniple.lanes"}
    ),
    "reach lanes by an alternate exchange": lambda c: c.exchange_declare(
        "thief", arguments={"alternate-exchange": "maniple.lanes"}
    ),
    "reach lanes by the default exchange": lambda c: c.queue_declare(
        "thief", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "maniple.x"}
    ),
}


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("what", FORBIDDEN_TO_OUTSIDERS)
def test_an_outside_user_may_not(connect: Connect, what: str) -> None:
    assert_refused(connect("outside"), FORBIDDEN_TO_OUTSIDERS[what])


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("exchange", ["maniple.results", "maniple.events", "maniple.lanes"])
def test_an_outside_user_may_not_listen_to(connect: Connect, exchange: str) -> None:
    def listen(channel: Channel) -> None:
        channel.queue_declare("eavesdropper", exclusive=True)
        channel.queue_bind("eavesdropper", exchange, "#")

    assert_refused(connect("outside"), listen)


@pytest.mark.usefixtures("dispatcher")
def test_an_outside_user_may_not_lead_an_exchange_of_its_own_into_the_lanes(
    connect: Connect,
) -> None:
    def lead(channel: Channel) -> None:
        channel.exchange_declare("own", auto_delete=True)
        channel.exchange_bind("maniple.lanes", "own")

    assert_refused(connect("outside"), lead)


def test_an_outside_user_may_submit(dispatcher: Channel, connect: Connect) -> None:
    channel = connect("outside").channel()
    channel.confirm_delivery()
    channel.basic_publish("maniple.tasks", "text.stats", b"{}", mandatory=True)
    assert dispatcher.basic_get("maniple.submit", auto_ack=True)[2] == b"{}"


@pytest.mark.parametrize("name", ["", "reports.replies"])
def test_an_outside_user_gets_replies_in_a_queue_of_its_own(
    dispatcher: Channel, connect: Connect, name: str
) -> None:
    channel = connect("outside").channel()
    queue = channel.queue_declare(name, exclusive=True).method.queue
    dispatcher.basic_publish("", queue, b"result", mandatory=True)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"result"


@pytest.mark.parametrize("replier", ["agent", "dispatcher"])
def test_an_outside_user_gets_replies_by_direct_reply_to(
    dispatcher: Channel, connect: Connect, replier: str
) -> None:
    asker = connect("outside")
    channel = asker.channel()
    channel.confirm_delivery()
    replies: list[tuple[str | None, bytes]] = []
    channel.basic_consume(
        "amq.rabbitmq.reply-to",
        lambda _c, _m, properties, body: replies.append((properties.correlation_id, body)),
        auto_ack=True,
    )
    asked = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
    channel.basic_publish("maniple.tasks", "text.stats", b"{}", asked)
    _, request, _ = dispatcher.basic_get("maniple.submit", auto_ack=True)
    answer = pika.BasicProperties(correlation_id=request.correlation_id)
    connect(replier).channel().basic_publish("", request.reply_to, b"result", answer)
    asker.process_data_events(time_limit=5)
    assert replies == [("7", b"result")]


def test_a_client_has_its_reply_queue_and_nothing_more(
    dispatcher: Channel, connect: Connect
) -> None:
    connection = connect("client")
    channel = connection.channel()
    queue = topology.reply_queue("c1", "secret")
    channel.queue_declare(queue.name, arguments=queue.all_arguments, exclusive=True)
    channel.queue_bind(queue.name, *queue.bindings[0])
    dispatcher.basic_publish("maniple.replies", "secret", b"result")
    assert_refused(connection, lambda c: c.basic_publish("maniple.requests", "policy", b"{}"))
    assert_refused(connection, FORBIDDEN_TO_OUTSIDERS["publish to the lanes"])
    assert channel.basic_get(queue.name, auto_ack=True)[2] == b"result"


def test_an_operator_asks_commands_and_watches(dispatcher: Channel, connect: Connect) -> None:
    connection = connect("operator")
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("maniple.requests", "registry", b"{}", mandatory=True)
    channel.basic_publish("maniple.control", "agent.a1", b"{}")
    watcher = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(watcher, "maniple.events", "agent.*")
    dispatcher.basic_publish("maniple.events", "agent.failed", b"{}")
    assert_refused(connection, FORBIDDEN_TO_OUTSIDERS["publish to the lanes"])
    assert_refused(connection, FORBIDDEN_TO_OUTSIDERS["read submissions"])
    assert channel.basic_get(watcher, auto_ack=True)[2] == b"{}"


@pytest.mark.parametrize("stream", ["maniple.records", "maniple.dead.log", "maniple.refused.log"])
@pytest.mark.usefixtures("dispatcher")
def test_an_operator_reads_the_stream(connect: Connect, stream: str) -> None:
    channel = connect("operator").channel()
    channel.basic_qos(prefetch_count=10)
    tag = channel.basic_consume(stream, lambda *_: None, arguments={"x-stream-offset": "next"})
    assert tag


@pytest.mark.parametrize("service", ["registry", "policy", "ledger", "dispatcher", "agent"])
def test_each_service_can_declare_what_it_needs_on_an_empty_broker(
    dispatcher: Channel, connect: Connect, service: str
) -> None:
    delete_topology(dispatcher)
    needs_lanes = service in {"dispatcher", "agent"}
    channel = connect(service).channel()
    declare(channel, (*topology.QUEUES, *LANES) if needs_lanes else topology.QUEUES)
    assert channel.is_open
    declare(dispatcher, LANES)  # for whoever comes next


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize(
    ("service", "exchange"),
    [
        ("registry", "maniple.lanes"),
        ("policy", "maniple.lanes"),
        ("ledger", "maniple.lanes"),
        ("agent", "maniple.tasks"),
    ],
)
def test_a_service_may_not_publish_outside_its_part(
    connect: Connect, service: str, exchange: str
) -> None:
    assert_refused(connect(service), lambda c: c.basic_publish(exchange, "text.stats", b"{}"))


@pytest.mark.usefixtures("dispatcher")
@pytest.mark.parametrize("service", ["registry", "policy", "ledger"])
def test_a_control_service_may_not_read_a_lane(connect: Connect, service: str) -> None:
    assert_refused(connect(service), FORBIDDEN_TO_OUTSIDERS["read a lane"])
