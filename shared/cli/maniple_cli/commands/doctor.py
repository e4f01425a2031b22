"""`maniple doctor`: whether everything is as it should be, and what to do if not."""

import json
from dataclasses import asdict

import typer
from rich.text import Text

from maniple.errors import BrokerUnavailable
from maniple_cli.checks import examine
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.output import (
    BrokerOption,
    ConsulOption,
    ExitCode,
    JsonOption,
    ManagementOption,
    console,
    local_cluster,
    print_line,
    run,
)
from maniple_runtime.shown import shown

_STYLES = {
    CheckVerdict.OK: "green",
    CheckVerdict.WARNING: "yellow",
    CheckVerdict.FAILED: "red",
    CheckVerdict.SKIPPED: "dim",
}


def doctor(
    *,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
    consul_url: ConsulOption = None,
    management_url: ManagementOption = None,
) -> None:
    """Check the broker, Consul, the processes, clocks, policies and one task from end to end."""
    raise typer.Exit(run(_doctor(broker_url, consul_url, management_url, as_json=as_json)))


async def _doctor(
    broker_url: str | None, consul_url: str | None, management_url: str | None, *, as_json: bool
) -> ExitCode:
    code = ExitCode.DONE
    findings: list[Finding] = []
    try:
        async for finding in examine(_places(broker_url, consul_url, management_url)):
            findings.append(finding)
            if not as_json:
                _print(finding)
            if finding.verdict is CheckVerdict.FAILED:
                code = ExitCode.FAILED
    except BrokerUnavailable as error:
        advice = "start RabbitMQ ('maniple dev' brings its own), or correct MANIPLE_BROKER_URL"
        findings.append(Finding("broker", CheckVerdict.FAILED, str(error), advice))
        if not as_json:
            _print(findings[-1])
        code = ExitCode.UNREACHABLE
    if as_json:
        print_line(json.dumps([asdict(finding) for finding in findings], indent=2))
    return code


def _places(broker_url: str | None, consul_url: str | None, management_url: str | None) -> Places:
    """Complete the given addresses from the local cluster, if its broker is used."""
    if broker_url is not None:
        return Places(broker_url, consul_url, management_url)
    cluster = local_cluster()
    return Places(
        cluster.operator_url,
        consul_url or cluster.consul_url,
        management_url or cluster.management_url or None,
    )


def _print(finding: Finding) -> None:
    screen = console()
    style = _STYLES[finding.verdict]
    verdict = Text(f"{finding.verdict:<8}", style)
    screen.print(Text.assemble(verdict, shown(f" {finding.check:<16} {finding.found}")))
    if finding.advice:
        screen.print(Text(f"{'':<9}→ {shown(finding.advice)}"))
