"""What whoever decides about a task asks of the policies."""

from collections.abc import Mapping
from typing import Protocol

from maniple_policies import Resolved


class PolicyResolver(Protocol):
    """The policies in force."""

    def resolve(
        self, capability: str, tenant: str, labels: Mapping[str, str], task: str = ""
    ) -> Resolved:
        """Say what holds for a task now, with the versions that say so."""
        ...
