"""Policies: whether all of them are valid, and in force everywhere."""

from collections.abc import Mapping
from typing import Any

from maniple.errors import ManipleError
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.control import ask

LAGGING, SILENT = "lagging", "stale"


async def examine(places: Places) -> Finding:
    """Ask the policy service."""
    try:
        return policies(await ask(places.broker, "policy", "policy.status"))
    except ManipleError as error:
        return Finding("policies", CheckVerdict.FAILED, str(error), "start a policy service")


def policies(told: Mapping[str, Any]) -> Finding:
    """Judge the policy service's answer."""
    if told["invalid"]:
        wrong = [f"in Consul, {key} is not usable: {why}" for key, why in told["invalid"].items()]
        advice = "apply a right version with 'maniple policy apply'; the last good one stays"
        return Finding("policies", CheckVerdict.FAILED, "; ".join(wrong), advice)
    if not told["consul"]:
        found, advice = "the policy service has no Consul", "start Consul, or look at its log"
        return Finding("policies", CheckVerdict.FAILED, found, advice)
    behind = [_behind(one) for one in told["processes"] if one["state"] in (LAGGING, SILENT)]
    if behind:
        advice = "wait half a minute and look at 'maniple policy status', then at their logs"
        return Finding("policies", CheckVerdict.WARNING, "; ".join(behind), advice)
    number = len(told["policies"])
    found = f"{number} in force" if number else "none are in force"
    return Finding("policies", CheckVerdict.OK, found)


def _behind(process: Mapping[str, Any]) -> str:
    if process["state"] == SILENT:
        return f"{process['instance']} has said nothing for {process['heard']:.0f} s"
    return f"{process['instance']} has not {', '.join(process['behind']) or 'what is in force'}"
