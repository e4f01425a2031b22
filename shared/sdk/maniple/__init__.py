"""Maniple: a cluster of agents that execute tasks, on RabbitMQ and Consul."""

from maniple.client import Client, SubmitOptions, TaskHandle, connect
from maniple.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    ErrorCode,
    InvalidMessage,
    ManipleError,
    PublishRefused,
    ResultTimeout,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRejected,
)
from maniple.messages import Result, RetryPlan, Status, TaskInfo
from maniple.tasks import TaskContext, task

__all__ = [
    "BrokerRefused",
    "BrokerUnavailable",
    "Client",
    "ConfigurationError",
    "ErrorCode",
    "InvalidMessage",
    "ManipleError",
    "PublishRefused",
    "Result",
    "ResultTimeout",
    "RetryPlan",
    "Status",
    "SubmitOptions",
    "TaskCancelled",
    "TaskContext",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TaskInfo",
    "TaskRejected",
    "connect",
    "task",
]
