"""A private Consul agent on free ports of 127.0.0.1."""

import asyncio
import json
import re
from pathlib import Path

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.child import Child, ChildSpec
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from maniple_cli.dev_cluster.readiness import until_ready
from maniple_cli.dev_cluster.reaper import ProcessReaper

START_SECONDS = 30.0
STOP_SECONDS = 5.0
OK = 200
NODE = "maniple"
GRPC_TLS_SINCE = (1, 14)


class ConsulServer:
    """A single Consul server: in memory (`agent -dev`), or kept in `data_dir` with `keep=True`.

    `data_dir` also holds its log. Without a `reaper` it makes one of its own.
    """

    def __init__(
        self, data_dir: Path, *, keep: bool = False, reaper: ProcessReaper | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.keep = keep
        self.port = 0
        self.children: tuple[Child, ...] = ()
        self._own_reaper = reaper is None
        self._reaper = reaper or ProcessReaper()

    @property
    def log(self) -> Path:
        """Consul's log file."""
        return self.data_dir / "consul.log"

    @property
    def url(self) -> str:
        """HTTP API and UI."""
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it leads and has registered its own node.

        Raises `ServerMissing` or `StartFailed`, with nothing left running.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        program = programs.consul()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port, server, serf = free_ports(3)
        argv = [str(program), *self._arguments(server, serf)]
        if await _version(program) >= GRPC_TLS_SINCE:
            argv.append("-grpc-tls-port=-1")
        environ = {"CHECKPOINT_DISABLE": "1"}
        agent = Child(ChildSpec("consul", tuple(argv), self.log, environ), self._reaper)
        self.children = (agent,)
        await agent.start_process()
        await until_ready("Consul", self.answers, children=[agent], seconds=START_SECONDS)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop it, by force after `seconds`. Idempotent."""
        for child in self.children:
            await child.stop(seconds)
        if self._own_reaper:
            self._reaper.end_reaper()

    async def answers(self) -> bool:
        """Tell whether sessions can be made: it has a leader and its own node's check passes."""
        status, body = await fetch(f"{self.url}/v1/health/node/{NODE}")
        return status == OK and any(check["Status"] == "passing" for check in json.loads(body))

    def _arguments(self, server: int, serf: int) -> list[str]:
        mode = ["-dev"]
        if self.keep:
            data = str(self.data_dir / "consul-data")
            mode = ["-server", "-bootstrap-expect=1", "-ui", f"-data-dir={data}"]
        return [
            "agent",
            *mode,
            f"-node={NODE}",
            f"-bind={LOOPBACK}",
            f"-client={LOOPBACK}",
            f"-http-port={self.port}",
            f"-server-port={server}",
            f"-serf-lan-port={serf}",
            "-serf-wan-port=-1",
            "-dns-port=-1",
            "-grpc-port=-1",
            "-log-level=info",
            "-hcl=performance { raft_multiplier = 1 }",
        ]


async def _version(program: Path) -> tuple[int, int]:
    process = await asyncio.create_subprocess_exec(
        str(program), "version", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    found = re.search(rb"v(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else (0, 0)
