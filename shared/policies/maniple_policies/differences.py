"""Documents as people read them, and the differences between two."""

import difflib
from typing import Any

import yaml

from maniple_policies.policy import Policy


def readable(policy: Policy) -> dict[str, Any]:
    """Return a document as a person would write it: without defaults and version."""
    said = policy.model_dump(mode="json", exclude_defaults=True, exclude={"version"})
    first = {"kind": policy.kind, "name": policy.name}
    return {**first, **{name: value for name, value in said.items() if name != "spec"},
            "spec": said["spec"]}  # fmt: skip


def as_yaml(policy: Policy | None) -> str:
    """Return a document as YAML; empty for None."""
    if policy is None:
        return ""
    return yaml.safe_dump(readable(policy), sort_keys=False, allow_unicode=True)


def difference(before: Policy | None, after: Policy | None) -> str:
    """Return a unified diff of two versions, None standing for no document; empty if equal."""
    lines = difflib.unified_diff(
        as_yaml(before).splitlines(),
        as_yaml(after).splitlines(),
        _title(before),
        _title(after),
        lineterm="",
    )
    return "".join(f"{line}\n" for line in lines)


def _title(policy: Policy | None) -> str:
    if policy is None:
        return "nothing"
    return f"{policy.key} version {policy.version}" if policy.version else policy.key
