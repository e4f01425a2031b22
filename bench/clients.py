"""Clients in processes of their own, so that what they cost can be told from the rest."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 300.0


class ClientProcess:
    """A running `bench.client_program`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        """Talk to `process`, whose errors go to `log`."""
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Have it do something; return what it answers. Raises `RuntimeError` if it ended."""
        assert self._process.stdin  # noqa: S101 - for mypy
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """Return its next answer."""
        assert self._process.stdout  # noqa: S101 - for mypy
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            last = "\n".join(self._log.read_text().splitlines()[-15:])
            raise RuntimeError(f"a client of the bench has ended:\n{last}")
        found = json.loads(line)
        assert isinstance(found, dict)  # noqa: S101 - for mypy
        return found


@contextlib.asynccontextmanager
async def client_process(
    kind: str, environ: Mapping[str, str], folder: Path
) -> AsyncIterator[ClientProcess]:
    """Run a client; its errors go to `folder`."""
    path = folder / f"client-{kind}.log"
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.client_program", kind),
            env={**os.environ, "PYTHONWARNINGS": "ignore", **environ},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    client = ClientProcess(process, path)
    try:
        await client.answer()
        yield client
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
