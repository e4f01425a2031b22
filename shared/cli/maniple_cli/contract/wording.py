"""Texts of the contract: descriptions of messages and fields, the roles, examples."""

from typing import Any

from maniple.messages import MAX_BODY, MAX_TASKS
from maniple.topology import TASKS

INTRODUCTION = f"""\
A cluster of agents that execute tasks. Publish a task to the exchange `{TASKS.name}`, persistent, \
with publisher confirms, with its capability as the routing key, and a queue of your own (or \
`amq.rabbitmq.reply-to`) as `reply_to`: what the broker has confirmed ends in exactly one result. \
Execution is at least once; order is not promised. JSON only: UTF-8, no NaN, nested at most 100 \
deep, not compressed; headers are strings."""

ROLES = """\
One RabbitMQ user per role. `outside`: write maniple.tasks, have queues of its own, nothing else. \
`client` (the SDK): also its reply queue maniple.replies.<client>. `operator` (the command line): \
also maniple.requests and maniple.control, and reads the streams. One more for each service."""

SUMMARIES = {
    "Task": f"A task to execute: one object, or an array of 1 to {MAX_TASKS:,}, at most "
    f"{MAX_BODY:,} bytes in all. Unknown fields are refused by name.",
    "Result": "How a task ended. The first terminal result of a task wins.",
    "Progress": "What a handler reported while it ran.",
    "TaskAdmitted": "A rate limit does not end a task; it goes to its lane or waits.",
    "TaskAccepted": "A task was admitted and its lane has confirmed it.",
    "TasksAccepted": "Tasks that came together were admitted and their lane has confirmed them.",
    "TaskRunning": "An attempt has been running for a second.",
    "Envelope": "Internal: an admitted task on its way to an agent.",
}

_RESULT = {
    "id": "The task's id. Bad input is recorded under an id of its own, answered by the id that "
    "it claimed.",
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
    "payload_digest": "There only if a fallback may give the output to a later task.",
}
FIELDS: dict[str, dict[str, str]] = {
    "Result": _RESULT,
    "TasksAccepted": {
        "ids": "The tasks that all of this is true of.",
        "traceparents": "By id; one that is missing has its id, a UUID without its hyphens, as its "
        "trace id, and is not sampled.",
    },
    "Progress": {
        "value": "Any JSON value.",
        "attempt": "The attempt that reported it, from 1.",
        "at": "RFC 3339.",
    },
    "Failure": {
        "code": "One of a closed set; branch on it.",
        "message": "A sentence for people.",
        "retry_after": "Seconds after which it may be worth trying again.",
        "detail": "Any JSON value, by code; of bad input with the id that it claimed.",
    },
}

REPEATED = (
    "true if the same submission, with the same ids, may have been taken before: then no policy "
    "refuses it, it waits."
)

TASK_EXAMPLES: list[dict[str, Any]] = [
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
RESULT_EXAMPLES: list[dict[str, Any]] = [
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
                "detail": {"field": "paylod", "id": "job-43", "message_id": "job-43"},
            },
        },
    },
]
