"""Errors of starting servers and clusters on this machine."""

from maniple.errors import ConfigurationError, ManipleError


class LocalError(ManipleError):
    """Something on this machine could not be started; the message says what to do."""


class ServerMissing(LocalError):
    """A server's program is not installed."""


class ServiceMissing(LocalError):
    """The services are not installed, only the command line."""


class ServerUnreachable(LocalError):
    """An existing server that the environment names does not answer."""


class WrongVariable(LocalError, ConfigurationError):
    """A variable that names an existing server is not a valid URL."""


class StartFailed(LocalError):
    """A child process did not become ready; the message ends with the last lines of its log."""
