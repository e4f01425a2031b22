"""A real Prometheus with the configuration and the rules of infra/prometheus, made fast."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from maniple_cli.dev_cluster.child import Child, ChildSpec
from maniple_cli.dev_cluster.errors import ServerMissing
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from maniple_cli.dev_cluster.programs import BREW
from maniple_cli.dev_cluster.readiness import until_ready
from maniple_cli.dev_cluster.reaper import ProcessReaper
from paths import ROOT

SOURCE = ROOT / "infra" / "prometheus"
FOLDERS = (Path("/usr/local/bin"), Path.home() / ".local/bin", *(path / "bin" for path in BREW))
FASTER = 40  # times, that windows and `for` are shorter
LEAST = 1.0  # seconds
START_SECONDS = 20.0
OK = 200
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(for: |\[)(\d+)([smhd])\b")

Labels = Mapping[str, str]


def program(name: str) -> Path:
    """Return `prometheus` or `promtool`; raises `ServerMissing`.

    Debian's own since release 12 knows no Consul, so the PATH comes last.
    """
    found = shutil.which(name)
    candidates = [folder / name for folder in FOLDERS] + ([Path(found)] if found else [])
    for path in candidates:
        if path.is_file():
            return path
    raise ServerMissing(f"{name} is not installed: run infra/local/install")


def hastened(rules: str) -> str:
    """Return rules whose times are shorter by `FASTER`."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * _UNITS[found[3]] / FASTER
        return f"{found[1]}{max(LEAST, seconds):.0f}s"

    return _TIME.sub(shorter, rules)


@dataclass(frozen=True)
class Sample:
    """One series of an answer, and its value."""

    labels: Labels
    value: float


class Prometheus:
    """A Prometheus for a Consul and a broker on this machine; `edits` are made in the rules."""

    def __init__(
        self, folder: Path, *, consul_url: str, broker_port: int, edits: Mapping[str, str]
    ) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        self._addresses = {
            "consul:8500": urlsplit(consul_url).netloc,
            "rabbitmq:15692": f"{LOOPBACK}:{broker_port}",
            "localhost:9090": f"{LOOPBACK}:{self._port}",
            "interval: 15s": "interval: 1s",
            "interval: 5s": "interval: 1s",
            "timeout: 10s": "timeout: 1s",
        }
        self._edits = edits
        self._url = f"http://{LOOPBACK}:{self._port}"
        self._child: Child | None = None

    async def start(self, reaper: ProcessReaper) -> None:
        """Start it and wait until it answers; raises `ServerMissing` or `StartFailed`."""
        config = self._configure()
        argv = (
            str(program("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self._port}",
        )
        child = self._child = Child(
            ChildSpec("prometheus", argv, self._folder / "prometheus.log"), reaper
        )
        await child.start_process()
        await until_ready("Prometheus", self._answers, children=[child], seconds=START_SECONDS)

    async def stop(self) -> None:
        """Stop it."""
        if self._child is not None:
            await self._child.stop(1.0)

    async def query(self, expression: str) -> list[Sample]:
        """Return the present values of an expression, without those that are not numbers."""
        data = await self._ask("query", query=expression)
        found = data["result"] if data["resultType"] == "vector" else []
        samples = [Sample(one["metric"], float(one["value"][1])) for one in found]
        return [sample for sample in samples if sample.value == sample.value]

    async def value(self, expression: str) -> float:
        """Return the one value that an expression has; 0 if it has none."""
        return sum(sample.value for sample in await self.query(expression))

    async def label_values(self, metric: str, label: str) -> list[str]:
        """Return the values of a label, as Grafana's `label_values` does."""
        data = await self._ask("series", **{"match[]": metric})
        return sorted({series[label] for series in data if series.get(label)})

    async def alerts(self, state: str = "firing") -> list[Labels]:
        """Return the labels of the alerts in a state."""
        data = await self._ask("alerts")
        return [alert["labels"] for alert in data["alerts"] if alert["state"] == state]

    async def errors(self) -> list[str]:
        """Return the errors of rules, in their own words."""
        groups = (await self._ask("rules"))["groups"]
        return [
            rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule
        ]

    async def _ask(self, page: str, **arguments: str) -> Any:
        status, body = await fetch(f"{self._url}/api/v1/{page}?{urlencode(arguments)}")
        assert status == OK, f"{page} {arguments}: {body}"
        return json.loads(body)["data"]

    async def _answers(self) -> bool:
        status, _ = await fetch(f"{self._url}/-/ready")
        return status == OK

    def _configure(self) -> Path:
        for rules in SOURCE.glob("rules/*.yml"):
            text = hastened(rules.read_text())
            for old, new in self._edits.items():
                text = text.replace(old, new)
            target = self._folder / "rules" / rules.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        config = (SOURCE / "prometheus.yml").read_text()
        for old, new in self._addresses.items():
            assert old in config, f"prometheus.yml has no {old}"
            config = config.replace(old, new)
        path = self._folder / "prometheus.yml"
        path.write_text(config)
        return path


def alert_names(rules: Any) -> Iterator[str]:
    """Iterate over the names of the alerts in a file of rules."""
    for group in rules["groups"]:
        yield from (rule["alert"] for rule in group["rules"] if "alert" in rule)
