"""What the contract says in words: fields, channels, roles and examples. Data for `schemas`."""

from typing import Any

from maniple.messages import (
    MAX_BODY,
    MAX_TASKS,
    PROGRESS_TYPE,
    RESULT_TYPE,
    TASK_TYPE,
)
from maniple.topology import (
    BATCH_KEY,
    DEAD_LOG,
    EVENTS,
    RECORDS,
    REFUSED_LOG,
    REQUESTS,
    RESERVED_PREFIX,
    TASKS,
    Exchange,
    Queue,
)

RESERVED = ("not_before", "idempotency_key", "sealed")
_LATER = "Reserved: refused with not_supported unless it is null or absent."
DOCUMENTED = ("Task", "Result", "Progress", "TaskAccepted", "Request", "Response")

INTRODUCTION = f"""\
A cluster of agents that execute tasks. Publish a task to the exchange `{TASKS.name}`, persistent, \
with publisher confirms, with its capability as the routing key, and a queue of your own (or \
`amq.rabbitmq.reply-to`) as `reply_to`: what the broker has confirmed ends in exactly one result. \
Execution is at least once; order is not promised. JSON only: UTF-8, no NaN, nested at most 100 \
deep, no content_encoding; headers are strings."""

ROLES = """\
One RabbitMQ user per role. `outside`: write maniple.tasks, have queues of its own, nothing else. \
`client` (the SDK): also its reply queue maniple.replies.<client>. `operator` (the command line): \
also maniple.requests and maniple.control, and reads the streams. One more for each service."""

SUMMARIES = {
    "Task": f"A task to execute: one object, or an array of 1 to {MAX_TASKS:,}, at most "
    f"{MAX_BODY:,} bytes in all. Unknown fields are refused by name.",
    "Result": "How a task ended. The first terminal result of a task wins.",
    "Progress": "What a handler reported while it ran.",
    "TaskAccepted": "A task was admitted and its lane has confirmed it.",
    "Envelope": "Internal: an admitted task on its way to an agent.",
}

_TASK = {
    "capability": "What to run, a dotted lower-case name. Default: the routing key, with which it "
    f"must agree unless that is '{BATCH_KEY}'.",
    "payload": "Any JSON value, handed to the handler.",
    "id": "With the tenant, the task's identity everywhere. Default: the AMQP message_id; for "
    "member n (from 0) of an array uuid5(message_id, str(n)); else a new UUIDv7.",
    "tenant": "For limits and isolation.",
    "labels": "Strings that policies select by, such as region.",
    "affinity": "Tasks with the same key go to the same agent while the set of agents stays.",
    "max_attempts": "Attempts in all; default from policy, else from the handler.",
    "timeout": "Seconds for one attempt; default from policy, else from the handler.",
    "deadline": "RFC 3339 with an offset: after it the task expires wherever it is. Not with ttl.",
    "ttl": "The same as seconds from submission; default 86,400. Not with deadline.",
    "traceparent": "W3C trace context; default the AMQP header of that name.",
    **dict.fromkeys(RESERVED, _LATER),
}
_RESULT = {
    "id": "The task's id.",
    "status": "The terminal state.",
    "output": "What the handler returned: any JSON value, at most 1 MiB; null unless succeeded.",
    "error": "Why it did not succeed; null if it did.",
    "attempt": "The attempt that ended it, from 1.",
    "lost": "How often an agent that held it vanished.",
    "agent": "Who ran it; null if nobody did.",
    "lane": "The queue that it was sent through.",
    "policies": "Versions of the policies that decided about it, by name.",
    "submitted_at": "When the dispatcher read it, or the sender's timestamp.",
    "traceparent": "The trace that it belongs to.",
}
FIELDS: dict[str, dict[str, str]] = {
    "Task": _TASK,
    "Result": _RESULT,
    "Progress": {
        "value": "Any JSON value.",
        "attempt": "The attempt that reported it, from 1.",
        "at": "RFC 3339.",
    },
    "Failure": {
        "code": "One of a closed set; branch on it.",
        "message": "A sentence for people.",
        "retry_after": "Seconds after which it may be worth trying again.",
        "detail": "Any JSON value, by code.",
    },
}

_TASK_EXAMPLES = [
    {
        "name": "one",
        "summary": "The least: the routing key names the capability",
        "payload": {"payload": {"text": "to be or not to be"}},
    },
    {
        "name": "full",
        "summary": "With options",
        "payload": {
            "capability": "text.stats",
            "payload": {"text": "to be or not to be"},
            "id": "job-42",
            "tenant": "blue",
            "labels": {"region": "eu"},
            "max_attempts": 3,
            "timeout": 30,
            "ttl": 3600,
        },
    },
    {
        "name": "array",
        "summary": "Several in one message",
        "payload": [{"payload": 1}, {"payload": 2, "id": "two"}],
    },
]
_RESULT_EXAMPLES = [
    {
        "name": "succeeded",
        "payload": {
            "id": "job-42",
            "capability": "text.stats",
            "status": "succeeded",
            "output": {"words": 6},
            "attempt": 1,
            "agent": "agent-1",
        },
    },
    {
        "name": "rejected",
        "payload": {
            "id": "job-43",
            "capability": "text.stats",
            "status": "rejected",
            "error": {
                "code": "unknown_field",
                "message": "Object contains unknown field `paylod`",
                "retry_after": None,
                "detail": {"field": "paylod"},
            },
        },
    },
]


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _message(name: str, wire_type: str, payload: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "contentType": "application/json",
        "payload": payload,
        "bindings": {"amqp": {"messageType": wire_type, "bindingVersion": "0.3.0"}},
        **more,
    }


def messages() -> dict[str, Any]:
    """Return the messages of the AsyncAPI document."""
    task = _reference("schemas", "Task")
    array = {"type": "array", "items": task, "minItems": 1, "maxItems": MAX_TASKS}
    headers = {
        "type": "object",
        "properties": {"traceparent": {"type": "string", "description": _TASK["traceparent"]}},
        "additionalProperties": {"type": "string"},
    }
    return {
        "task": _message(
            "task",
            TASK_TYPE,
            {"oneOf": [task, array]},
            summary=SUMMARIES["Task"],
            headers=headers,
            correlationId={
                "location": "$message.header#/correlation_id",
                "description": "The AMQP property; it comes back with the result.",
            },
            examples=_TASK_EXAMPLES,
        ),
        "result": _message(
            "result",
            RESULT_TYPE,
            _reference("schemas", "Result"),
            summary=SUMMARIES["Result"],
            examples=_RESULT_EXAMPLES,
        ),
        "progress": _message(
            "progress",
            PROGRESS_TYPE,
            {"type": "array", "items": _reference("schemas", "Progress")},
            summary=SUMMARIES["Progress"],
        ),
        "accepted": _message(
            "accepted",
            "maniple.accepted.v1",
            {"type": "array", "items": _reference("schemas", "TaskAccepted")},
            summary=SUMMARIES["TaskAccepted"],
        ),
        "results": _message(
            "results",
            "maniple.results.v1",
            {"type": "array", "items": _reference("schemas", "Result")},
            summary="Results as they are recorded: in arrays.",
        ),
        "request": _message("request", "maniple.request.v1", _reference("schemas", "Request")),
        "response": _message("response", "maniple.response.v1", _reference("schemas", "Response")),
        "bytes": {
            "name": "bytes",
            "summary": "The message as it was sent; the headers say why it is here.",
            "payload": {},
        },
    }


def _of_exchange(exchange: Exchange, address: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "address": address,
        "messages": {name: _reference("messages", name) for name in names},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": exchange.name,
                    "type": exchange.kind,
                    "durable": True,
                    "autoDelete": False,
                },
                "bindingVersion": "0.3.0",
            }
        },
    }


def _of_stream(queue: Queue, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "address": queue.name,
        "description": "A stream: read it by offset with the argument x-stream-offset and a "
        f"prefetch. Kept for {queue.arguments['x-max-age']}.",
        "messages": {name: _reference("messages", name) for name in names},
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": queue.name,
                    "durable": True,
                    "exclusive": False,
                    "autoDelete": False,
                },
                "bindingVersion": "0.3.0",
            }
        },
    }


def channels() -> dict[str, Any]:
    """Return the channels that outsiders and operators may use."""
    tasks = _of_exchange(TASKS, "{capability}", ("task",))
    tasks["parameters"] = {
        "capability": {"description": f"The task's capability, or '{BATCH_KEY}' for mixed arrays."}
    }
    requests = _of_exchange(REQUESTS, "{service}", ("request",))
    requests["parameters"] = {
        "service": {"enum": ["registry", "policy", "dispatcher", "ledger"]},
    }
    return {
        "tasks": tasks,
        "replies": {
            "address": None,
            "description": "The queue that `reply_to` names: one of your own, or "
            f"amq.rabbitmq.reply-to. Names that begin with '{RESERVED_PREFIX}' are refused. A "
            "result comes as one object with your correlation_id, at least once.",
            "messages": {"result": _reference("messages", "result")},
        },
        "requests": requests,
        "responses": {
            "address": None,
            "messages": {"response": _reference("messages", "response")},
        },
        "progress": _of_exchange(EVENTS, "task.progress.{capability}", ("progress",))
        | {"parameters": {"capability": {"description": "The task's capability."}}},
        "records": _of_stream(RECORDS, ("accepted", "results")),
        "dead": _of_stream(DEAD_LOG, ("bytes",)),
        "refused": _of_stream(REFUSED_LOG, ("bytes",)),
    }


def operations() -> dict[str, Any]:
    """Return what a program may do, seen from that program."""
    return {
        "submitTask": {
            "action": "send",
            "channel": {"$ref": "#/channels/tasks"},
            "summary": "Submit tasks (outside, client, operator).",
            "messages": [{"$ref": "#/channels/tasks/messages/task"}],
            "reply": {
                "address": {"location": "$message.header#/reply_to"},
                "channel": {"$ref": "#/channels/replies"},
                "messages": [{"$ref": "#/channels/replies/messages/result"}],
            },
            "bindings": {
                "amqp": {
                    "deliveryMode": 2,
                    "mandatory": True,
                    "ack": True,
                    "bindingVersion": "0.3.0",
                }
            },
        },
        "askService": {
            "action": "send",
            "channel": {"$ref": "#/channels/requests"},
            "summary": "Ask a service (operator).",
            "messages": [{"$ref": "#/channels/requests/messages/request"}],
            "reply": {
                "address": {"location": "$message.header#/reply_to"},
                "channel": {"$ref": "#/channels/responses"},
                "messages": [{"$ref": "#/channels/responses/messages/response"}],
            },
        },
        **{
            name: {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{channel}"},
                "summary": summary,
            }
            for name, channel, summary in (
                ("watchProgress", "progress", "Watch progress on a queue of one's own (operator)."),
                ("readRecords", "records", "Read the record of every task (operator)."),
                ("readDead", "dead", "Read tasks that could not be delivered (operator)."),
                ("readRefused", "refused", "Read input that was refused (operator)."),
            )
        },
    }
