"""Errors of the registry."""

from maniple.errors import ManipleError


class RegistryError(ManipleError):
    """Base of the registry's own errors."""


class ManagementUnavailable(RegistryError):
    """RabbitMQ's management API could not be reached or refused."""
