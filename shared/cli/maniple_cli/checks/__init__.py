"""The checks of `maniple doctor`; each returns what it found and what to do."""

from collections.abc import AsyncIterator

from maniple.amqp.probe import probe
from maniple.topology import EXCHANGES, QUEUES
from maniple_cli.checks import broker, management, policies, processes, work
from maniple_cli.checks.findings import Finding, Places

TIMEOUT = 5.0


async def examine(places: Places) -> AsyncIterator[Finding]:
    """Run all checks. Raises `BrokerUnavailable` when there is no broker to examine."""
    exchanges, queues = [e.name for e in EXCHANGES], [q.name for q in QUEUES]
    view = await probe(places.broker, exchanges, queues, timeout=TIMEOUT)
    yield broker.version(places, view)
    yield broker.declared(view)
    yield broker.consumed(view)
    clocks = {}
    try:
        told = await management.ask(places)
    except management.ManagementUnread as error:
        yield error.finding
    else:
        for finding in management.judge(told):
            yield finding
        # Asked over AMQP, because the statistics of the API are some seconds old.
        lanes = await probe(places.broker, (), management.lane_names(told), timeout=TIMEOUT)
        yield management.unserved(lanes.messages, lanes.consumers)
        if told.ahead is not None:
            clocks["RabbitMQ"] = told.ahead
    heard = await processes.examine(places)
    for finding in heard.findings:
        yield finding
    yield processes.clocks(clocks | heard.clocks)
    yield await policies.examine(places)
    yield await work.membership(places)
    yield await work.echo(places)
