"""What CONTRIBUTING.md says of adding a thing, followed on a copy: how many files it takes."""

from pathlib import Path

import maniple_agent.heartbeat
import maniple_registry.consumers
import maniple_registry.handlers
import maniple_runtime.control.messages
from maniple import messages
from maniple.client import submission
from maniple_cli import main
from maniple_cli.commands import submit
from product_copy import Copy

SENT = """
import asyncio, json, os, sys
from maniple import TaskContext, task
from maniple.attempts import context_of
from maniple.codec import decode_envelopes, encode
from maniple.testing import cluster
from maniple_agent.executors.frames import WorkerCall
from maniple_cli.contract.schemas import message_schemas
from maniple_cli.main import build
from maniple_dispatcher.ingress.admission import admit
from maniple_dispatcher.ingress.arrival import Arrival
from maniple_policies import PolicySet
from typer.testing import CliRunner
from maniple.messages import NULL, Task, info_of
from datetime import datetime, UTC
import msgspec

@task("paint")
async def paint(payload: int, context: TaskContext) -> str | None:
    return context.task.color

async def seen():
    async with cluster(paint) as client:
        return [
            await (await client.submit("paint", 1, color="red")).result(5),
            await (await client.submit("paint", 1)).result(5),
        ]

told = asyncio.run(seen())
now = datetime.now(UTC)
arrival = Arrival(received_at=now, sent_at=now, routing_key="paint")
envelope = admit(
    Task(capability="paint", color="blue"), arrival, task_id="1", capability="paint",
    decided=PolicySet([]).resolve("paint", "default", {}), traceparent="",
)
(carried,) = decode_envelopes(encode([envelope]))
call = WorkerCall(task=info_of(carried), timeout=1.0, memory=1, payload=NULL)
called = msgspec.json.decode(msgspec.json.encode(call), type=WorkerCall)
helped = CliRunner().invoke(build(), ["submit", "--help"], env={"COLUMNS": "200"})
print(json.dumps({
    "testing": told,
    "envelope": carried.color,
    "context": context_of(carried, 1.0, "a", None).task.color,
    "worker": called.task.color,
    "schema": message_schemas()["Task"]["properties"]["color"]["description"],
    "help": "--color" in helped.output,
}))
"""
REMARK = '''class Remark(ControlMessage):
    """What an agent says besides."""

    TYPE: ClassVar[str] = "maniple.remark.v1"
    agent: AgentName
    text: str


'''
NOTED = 'self.log.error("a remark", agent=one.agent, text=one.text)'
HEARD = """
import json
import structlog
from simulated_cluster import Cluster
from virtual_time import World

with World(1) as world, Cluster(world) as cluster, structlog.testing.capture_logs() as lines:
    cluster.begun(2)
print(json.dumps({one["agent"]: one["text"] for one in lines if one["event"] == "a remark"}))
"""
GREETED = """
import json
from maniple_cli.main import build
from typer.testing import CliRunner

print(json.dumps(CliRunner().invoke(build(), ["greet", "you"]).output))
"""


def test_a_field_of_a_task_takes_three_files_from_the_command_line_to_the_handler(
    tmp_path: Path,
) -> None:
    copy = Copy(tmp_path, "maniple", "maniple_cli")
    sealed = "    not_before: Annotated[Raw, Meta(description=RESERVED)] = NULL\n"
    about = 'Annotated[str | None, Meta(description="Of what.")]'
    copy.change(messages, sealed, f"    color: {about} = None\n{sealed}")
    last = '    "labels",\n    "affinity",\n'
    copy.change(messages, last, f'{last}    "color",\n')
    last = "    attempt: int = 1\n    traceparent: str | None = None\n\n\ndef info_of"
    copy.change(messages, last, last.replace("\n\n\n", "\n    color: str | None = None\n\n\n"))
    last = "    ttl: float | None\n"
    copy.change(submission, last, f"{last}    color: str | None\n")
    last = '(help="Seconds until the task expires.")] = None,'
    copy.change(submit, last, f"{last}\n    color: Annotated[str | None, typer.Option()] = None,")
    copy.change(submit, "        ttl=ttl,\n", "        ttl=ttl,\n        color=color,\n")
    assert copy.ask(SENT) == {
        "testing": ["red", None],
        "envelope": "blue",
        "context": "blue",
        "worker": "blue",
        "schema": "Of what.",
        "help": True,
    }
    assert len(copy.written) == 3


def test_a_message_from_an_agent_to_a_registry_takes_four_files(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "maniple_runtime", "maniple_agent", "maniple_registry")
    model = maniple_runtime.control.messages
    following = "class AgentPhase(OpenEnum):"
    copy.change(model, following, f"{REMARK}{following}")
    heartbeat = maniple_agent.heartbeat
    copy.change(heartbeat, "    Heartbeat,\n", "    Heartbeat,\n    Remark,\n")
    last = "        self._sent_at = started\n"
    remark = 'Remark(agent=self._self.description.agent, text="hello")'
    copy.change(
        heartbeat, last, f'{last}        await self._plane.publish(OUTCOMES, "", {remark})\n'
    )
    handlers, consumers = maniple_registry.handlers, maniple_registry.consumers
    first = "    def on_heartbeat(self,"
    copy.change(handlers, first, f"    def on_remark(self, one):\n        {NOTED}\n\n{first}")
    line = 'FromExchange(EVENTS, ("agent.*",), AGENT_EVENTS, handlers.on_agent_event),'
    row = 'FromExchange(OUTCOMES, ("",), (Remark,), handlers.on_remark),'
    copy.change(consumers, line, f"{line} {row}")
    copy.change(consumers, "messages import Time", "messages import Remark, Time")
    copy.change(consumers, "import CONTROL, EVENTS, HEARTBEATS", "import *")
    assert copy.ask(HEARD) == {"a0": "hello", "a1": "hello"}
    assert len(copy.written) == 4


def test_a_command_takes_two_files(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "maniple_cli")
    module = "maniple_cli.commands.greet"
    copy.add(
        module,
        '''"""`maniple greet`."""

from maniple_cli.output import print_line


def greet(name: str) -> None:
    """Greet somebody."""
    print_line(f"hello {name}")
''',
    )
    first = "from maniple_cli.commands.log_level"
    copy.change(main, first, f"from {module} import greet\n{first}")
    copy.change(main, "log_level, asyncapi)", "log_level, asyncapi, greet)")
    assert copy.ask(GREETED) == "hello you\n"
    assert len(copy.written) == 2
