"""A private Consul for tests: started, stopped, frozen and restarted at will."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import requests

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.ports import free_ports
from maniple_cli.dev_cluster.reaper import ProcessReaper
from needs import CONSUL, need
from waiting import wait_until


class ConsulServer:
    """`consul agent -dev` on free ports, known to the reaper; each start finds its memory empty."""

    def __init__(self, folder: Path, reaper: ProcessReaper, options: Sequence[str] = ()) -> None:
        self._reaper = reaper
        self._options = options
        self._log = folder / "consul.log"
        names = ("http", "grpc", "server", "serf-lan", "serf-wan")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._ports['http']}"

    def start(self) -> Self:
        need(CONSUL)
        binary = programs.consul()
        ports = [f"-{name}-port={port}" for name, port in self._ports.items()]
        options = subprocess.run([binary, "agent", "-help"], capture_output=True, check=False)
        if b"-grpc-tls-port" in options.stdout + options.stderr:  # since 1.14, at a fixed port
            ports.append("-grpc-tls-port=-1")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    "agent",
                    "-dev",
                    "-bind=127.0.0.1",
                    "-dns-port=-1",
                    *ports,
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._reaper.watch_group(self._process.pid)
        return self

    def answers(self) -> bool:
        """Whether it has a leader."""
        try:
            return bool(requests.get(f"{self.url}/v1/status/leader", timeout=1).json())
        except (requests.RequestException, ValueError):
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._reaper.forget_group(self._process.pid)
            self._process = None

    def freeze(self) -> None:
        """Return when it stands still: on a busy machine its threads stop a while after."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def own_consul(folder: Path, *options: str) -> AsyncIterator[ConsulServer]:
    """A Consul of the test's own for the block, with a leader at its beginning."""
    with ProcessReaper() as reaper:
        own = ConsulServer(folder, reaper, options)
        try:
            own.start()
            await wait_until(own.answers)
            yield own
        finally:
            own.kill()
