"""Consul as commands ask it: with the operator's token, for the processes of one environment."""

import os

from maniple.service.catalog import Instance, service_name
from maniple.service.consul import Consul

SERVICES = ("registry", "dispatcher", "policy", "agent")
TOKEN = "MANIPLE_CONSUL_TOKEN"  # noqa: S105 - the name of the variable


def consul_at(url: str) -> Consul:
    """Return Consul at `url`; whoever asks for it closes it."""
    return Consul(url, os.environ.get(TOKEN) or None)


async def listed(consul: Consul, service: str, environment: str) -> list[Instance]:
    """Return the processes of a service that are in Consul for an environment, by id."""
    instances = await consul.instances(service_name(service))
    return [one for one in instances if one.meta.get("environment", environment) == environment]
