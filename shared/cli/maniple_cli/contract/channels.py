"""The channels, messages and operations of the AsyncAPI document, from the topology."""

from typing import Any

from maniple.messages import (
    ACCEPTED_TYPE,
    ADMITTED_TYPE,
    GROUPS_TYPE,
    MAX_TASKS,
    PROGRESS_TYPE,
    REPEATED_HEADER,
    RESULT_TYPE,
    RESULTS_TYPE,
    RUNNING_TYPE,
    TASK_TYPE,
)
from maniple.topology import (
    BATCH_KEY,
    DEAD_LOG,
    EVENTS,
    RECORDS,
    REFUSED_LOG,
    REQUEST_SERVICES,
    REQUESTS,
    RESERVED_PREFIX,
    TASKS,
    Exchange,
    Queue,
    progress_key,
)
from maniple_cli.contract.wording import REPEATED, RESULT_EXAMPLES, SUMMARIES, TASK_EXAMPLES

DOCUMENTED = (
    "Task",
    "Result",
    "Progress",
    "TaskAdmitted",
    "TaskAccepted",
    "TasksAccepted",
    "TaskRunning",
    "Request",
    "Response",
)


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


def _array(name: str, wire_type: str, schema: str, summary: str) -> dict[str, Any]:
    payload = {"type": "array", "items": _reference("schemas", schema)}
    return _message(name, wire_type, payload, summary=summary)


def _task() -> dict[str, Any]:
    one = _reference("schemas", "Task")
    array = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_TASKS}
    traceparent = {
        "type": "string",
        "description": "W3C trace context, of a task that has none of its own.",
    }
    repeated = {"type": "string", "description": REPEATED}
    return _message(
        "task",
        TASK_TYPE,
        {"oneOf": [one, array]},
        summary=SUMMARIES["Task"],
        headers={
            "type": "object",
            "properties": {"traceparent": traceparent, REPEATED_HEADER: repeated},
            "additionalProperties": {"type": "string"},
        },
        correlationId={
            "location": "$message.header#/correlation_id",
            "description": "The AMQP property; it comes back with the result.",
        },
        examples=TASK_EXAMPLES,
    )


def messages() -> dict[str, Any]:
    """Return the messages of the AsyncAPI document."""
    return {
        "task": _task(),
        "result": _message(
            "result",
            RESULT_TYPE,
            _reference("schemas", "Result"),
            summary=SUMMARIES["Result"],
            examples=RESULT_EXAMPLES,
        ),
        "progress": _array("progress", PROGRESS_TYPE, "Progress", SUMMARIES["Progress"]),
        "accepted": _array("accepted", ACCEPTED_TYPE, "TaskAccepted", SUMMARIES["TaskAccepted"]),
        "groups": _array("groups", GROUPS_TYPE, "TasksAccepted", SUMMARIES["TasksAccepted"]),
        "admitted": _array("admitted", ADMITTED_TYPE, "TaskAdmitted", SUMMARIES["TaskAdmitted"]),
        "running": _array("running", RUNNING_TYPE, "TaskRunning", SUMMARIES["TaskRunning"]),
        "results": _array(
            "results", RESULTS_TYPE, "Result", "Results as they are recorded: in arrays."
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
        "prefetch, and pass over types that you do not know. "
        f"Kept for {queue.arguments['x-max-age']}.",
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
        "service": {"enum": list(REQUEST_SERVICES)},
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
        "progress": _of_exchange(EVENTS, progress_key("{capability}"), ("progress",))
        | {"parameters": {"capability": {"description": "The task's capability."}}},
        "records": _of_stream(RECORDS, ("admitted", "accepted", "groups", "running", "results")),
        "dead": _of_stream(DEAD_LOG, ("bytes",)),
        "refused": _of_stream(REFUSED_LOG, ("bytes",)),
    }


def operations() -> dict[str, Any]:
    """Return the operations of a program, from that program's point of view."""
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
