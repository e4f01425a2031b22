"""The client: submits tasks and receives their results."""

from maniple.client.carrier import connect
from maniple.client.core import Client
from maniple.client.handle import TaskHandle
from maniple.client.submission import SubmitOptions

__all__ = ["Client", "SubmitOptions", "TaskHandle", "connect"]
