"""Operations on a broker that only its operators can do, with `rabbitmqctl`."""

import secrets
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.errors import LocalError
from system.docker import run

# In the broker's own language: the connections of an owner, those whose name begins with it.
OWNED = """
  Owned = [P || [{{pid, P}}, {{client_properties, C}}]
             <- rabbit_networking:connection_info_all([pid, client_properties]),
             {{_, longstr, N}} <- [lists:keyfind(<<"connection_name">>, 1, C)],
             string:prefix(N, <<"{owner}">>) =/= nomatch],
"""
_CLOSE = """
  [rabbit_networking:close_connection(P, "by a test") || P <- Owned], length(Owned).
"""


# What `rabbitmqctl eval` does, which takes a second to start; an error is told, as it is there.
_EVALUATE = """
  try {text} of
      Result -> io:format("ok ~p", [Result])
  catch
      Class:Reason -> io:format("error ~p", [{{Class, Reason}}])
  end.
"""


class Commanded(Protocol):
    """A broker that runs `rabbitmqctl`."""

    async def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` with these arguments and return its output. Raises `LocalError`."""


class Served(Protocol):
    """A broker that runs here, alone or with other servers."""

    @property
    def children(self) -> Sequence[Child]:
        """The processes that make it up."""


@dataclass(frozen=True)
class Installed:
    """A broker of this machine, controlled with the program that came with it."""

    server: Served

    async def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` with these arguments and return its output. Raises `LocalError`.

        Expressions are evaluated by `erl_call`, where it exists, at a hundredth of the cost.
        """
        if arguments[0] == "eval" and shutil.which("erl_call"):
            return await self._evaluate(arguments[1])
        program = programs.rabbitmq_server().with_name("rabbitmqctl")
        return await run(str(program), "--quiet", *arguments, env=self._environ)

    async def _evaluate(self, text: str) -> str:
        environ = self._environ
        cookie = (Path(environ["HOME"]) / ".erlang.cookie").read_text()
        said = await run(
            *("erl_call", "-name", environ["RABBITMQ_NODENAME"], "-c", cookie),
            *("-e", "-fetch_stdout", "-no_result_term"),
            env=environ,
            given=_EVALUATE.format(text=text.strip().removesuffix(".")).encode(),
        )
        verdict, _, result = said.partition(" ")
        if verdict != "ok":
            raise LocalError(f"the broker did not evaluate {text.strip()}: {result or 'no answer'}")
        return result

    @property
    def _environ(self) -> Mapping[str, str]:
        (broker,) = [child for child in self.server.children if child.spec.name == "rabbitmq"]
        return broker.spec.env


async def make_administrator(broker: Commanded, name: str) -> str:
    """Create a user with all rights; return the password."""
    password = secrets.token_hex(8)
    user = f'<<"{name}">>'
    await broker.control(
        "eval",
        f'rabbit_auth_backend_internal:add_user({user}, <<"{password}">>, <<"tests">>), '
        f'rabbit_auth_backend_internal:set_tags({user}, [administrator], <<"tests">>).',
    )
    return password


async def close_connection(broker: Commanded, owner: str) -> int:
    """Close the connections whose name starts so; return how many there were.

    The management API shows a connection some seconds after it was opened; the broker knows it at
    once.
    """
    return int(await broker.control("eval", OWNED.format(owner=owner) + _CLOSE))


@asynccontextmanager
async def suspended(broker: Commanded, environment: str, queue: str) -> AsyncIterator[None]:
    """Suspend a quorum queue: it answers nobody, as one that has lost its leader."""
    leader = f"whereis('{environment}_{queue}')"
    await broker.control("eval", f"sys:suspend({leader}).")
    try:
        yield
    finally:
        await broker.control("eval", f"sys:resume({leader}).")
