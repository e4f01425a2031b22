"""How an agent's process starts, or ends at once, with the handlers that it is given."""

import asyncio
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from ending import launched

NOBODY = {
    "MANIPLE_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/none",
    "MANIPLE_CONSUL_URL": "http://127.0.0.1:1",
    "MANIPLE_HTTP_PORT": "0",
}
HANDLERS = """
import asyncio
from maniple import task

@task("shop.total")
async def total(payload): ...

@task("shop.thumbnail", executor="process")
def thumbnail(payload): ...
"""


def agent(
    handlers: Path | str, folder: Path
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    known = [str(Path(one).resolve()) for one in os.environ.get("PYTHONPATH", "").split(":") if one]
    return launched(
        sys.executable,
        "-m",
        "maniple_agent",
        env={
            **os.environ,
            **NOBODY,
            "PYTHONPATH": ":".join(known),
            "MANIPLE_HANDLERS": str(handlers),
        },
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("source", "line", "says"),
    [
        ("import sys\n\nsys.exit(0)\n", 3, "it raises SystemExit(0) when it is imported"),
        (
            "class Odd(Exception):\n    def __repr__(self): 1 / 0\nraise Odd\n",
            3,
            "it raises Odd (which cannot be shown: ZeroDivisionError) when it is imported",
        ),
        (
            "import sys\nfrom maniple import task\nsys.path.clear()\n\nraise ValueError\n",
            5,
            "it raises ValueError() when it is imported",
        ),
        ("raise BaseException('no')\n", 1, "it raises BaseException('no') when it is imported"),
        (
            "from maniple import task\nclass Order: ...\n@task('a.b')\ndef f(order: Order): ...\n",
            3,
            "a.b: its payload is annotated with what cannot be validated",
        ),
    ],
)
async def test_an_agent_ends_with_2_and_says_file_and_line(
    tmp_path: Path, source: str, line: int, says: str
) -> None:
    file = tmp_path / "shop.py"
    file.write_text(source)
    async with agent("shop.py", tmp_path) as process:
        _, said = await process.communicate()
    assert process.returncode == 2
    (reason,) = [
        entry["reason"]
        for entry in map(json.loads, said.splitlines())
        if entry["event"] == "cannot start"
    ]
    assert f"{file}:{line}: {says}" in reason


async def test_an_agent_says_what_it_offers(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(HANDLERS)
    async with agent("shop", tmp_path) as process:
        assert process.stderr is not None
        while True:
            said = json.loads(await process.stderr.readline())
            if said["event"] == "handlers are loaded":
                break
        process.terminate()
    assert said["process"] == ["shop.thumbnail"]
    assert said["async"] == ["shop.total", "maniple.echo", "maniple.sleep", "maniple.fail"]
