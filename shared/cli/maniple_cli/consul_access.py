"""Access to Consul for commands: the operator's token, the processes of one environment."""

import os

from maniple.errors import ConfigurationError
from maniple_runtime.consul.catalog import Instance, service_name
from maniple_runtime.consul.client import Consul
from maniple_runtime.tls import Tls

SERVICES = ("registry", "dispatcher", "policy", "agent")
TOKEN = "MANIPLE_CONSUL_TOKEN"  # noqa: S105 - the name of the variable


def consul_at(url: str) -> Consul:
    """Return a client of the Consul at `url`; the caller closes it. Raises `ConfigurationError`."""
    return Consul(url, os.environ.get(TOKEN) or None, tls_of("consul"))


def tls_of(server: str) -> Tls:
    """Return the TLS settings for a server. Raises `ConfigurationError`."""
    try:
        return Tls.of_environment(server)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


async def listed(consul: Consul, service: str, environment: str) -> list[Instance]:
    """Return the processes of a service in Consul for an environment, by id."""
    instances = await consul.instances(service_name(service))
    return [one for one in instances if one.meta.get("environment", environment) == environment]
