"""What a process reports over HTTP: `/health`, `/ready`, `/metrics`."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from maniple.clock import SYSTEM_CLOCK
from maniple.errors import ConfigurationError
from maniple.forks import keep_from_children
from maniple.loops import end
from maniple_runtime.settings import ServiceSettings

FAILING_AFTER = 30.0  # seconds for which a required component may be bad before /health is 503
_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Component:
    """Something that a process depends on; `since` is the clock when `ok` last changed."""

    ok: bool
    detail: str
    required: bool
    since: float


class Health:
    """A process's components, and whether it is started, ready or draining.

    `versions` (name to version) and `timings` (see `Timings.shown`) are reported as they are.
    `loop_lag` is seconds, kept by the runner.
    """

    def __init__(
        self,
        service: str,
        instance: str,
        *,
        timings: Mapping[str, float | str] | None = None,
        clock: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        self.service = service
        self.instance = instance
        self.versions: dict[str, int | str] = {}
        self.timings = timings or {}
        self.loop_lag = 0.0
        self._components: dict[str, Component] = {}
        self._clock = clock
        self._started = False
        self._draining = False

    def set(self, component: str, ok: bool, detail: str = "", *, required: bool = False) -> None:  # noqa: FBT001 - reads as a sentence: set("broker", ok=…)
        """Set the state of a component; a component once required stays so."""
        old = self._components.get(component)
        same = old is not None and old.ok == ok
        since = old.since if old is not None and same else self._clock()
        required = required or (old is not None and old.required)
        self._components[component] = Component(ok, detail, required, since)

    def mark_started(self) -> None:
        """Mark the process as started: everything has been built."""
        self._started = True

    def mark_draining(self) -> None:
        """Mark the process as draining: it takes nothing new; this is final."""
        self._draining = True

    @property
    def components(self) -> dict[str, bool]:
        """Whether each component is ok."""
        return {name: component.ok for name, component in self._components.items()}

    @property
    def sound(self) -> bool:
        """Whether every required component is ok."""
        return all(c.ok for c in self._components.values() if c.required)

    @property
    def ready(self) -> bool:
        """Whether the process may be sent work."""
        return self._started and not self._draining and self.sound

    @property
    def is_alive(self) -> bool:
        """Whether no required component has been bad for `FAILING_AFTER` seconds."""
        limit = self._clock() - FAILING_AFTER
        return not any(
            c.required and not c.ok and c.since <= limit for c in self._components.values()
        )

    @property
    def status(self) -> str:
        """`draining`, `degraded` (some component is bad) or `ok`."""
        if self._draining:
            return "draining"
        return "ok" if all(c.ok for c in self._components.values()) else "degraded"

    def snapshot(self) -> dict[str, Any]:
        """Return the body of `/health`."""
        return {
            "service": self.service,
            "instance": self.instance,
            "status": self.status,
            "ready": self.ready,
            "components": {
                name: {"ok": c.ok, "detail": c.detail, "required": c.required}
                for name, c in sorted(self._components.items())
            },
            "versions": dict(sorted(self.versions.items())),
            "timings": dict(self.timings),
        }


def _answer(
    health: Health, registry: CollectorRegistry, path: str, accept: str
) -> tuple[int, str, bytes]:
    if path == "/health":
        body = json.dumps(health.snapshot()).encode()
        return (200 if health.is_alive else 503), _JSON, body
    if path == "/ready":
        return (200, _PLAIN, b"ready\n") if health.ready else (503, _PLAIN, b"not ready\n")
    if path == "/metrics":
        encode, content_type = choose_encoder(accept)
        return 200, content_type, encode(registry)
    return 404, _PLAIN, b"not found\n"


def asgi(health: Health, registry: CollectorRegistry) -> AsgiApp:
    """ASGI application of a process's three pages."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] in {"GET", "HEAD"}:
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            status, content_type, body = _answer(health, registry, scope["path"], accept)
        else:
            status, content_type, body = 405, _PLAIN, b"method not allowed\n"
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the runner owns the process's signals


class HealthServer:
    """The three pages on the process's own loop; `port` and `url` are what is really bound."""

    def __init__(
        self,
        settings: ServiceSettings,
        health: Health,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._settings = settings
        self._app = asgi(health, registry or CollectorRegistry())
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = settings.http_port

    @property
    def url(self) -> str:
        """URL under which others reach the pages."""
        host = self._settings.address
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Bind and serve; raises `ConfigurationError`."""
        bound = self._bind()
        self.port = bound.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([bound]), name="http")
        while not self._server.started:  # uvicorn offers no event for it
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.005)
        return self

    def _bind(self) -> socket.socket:
        host, port = self._settings.http_host, self._settings.http_port
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind(address)
            except OSError:
                bound.close()
                raise
        except OSError as error:
            text = f"MANIPLE_HTTP_HOST, MANIPLE_HTTP_PORT: cannot serve on {host}:{port}: {error}"
            raise ConfigurationError(text) from error
        keep_from_children(bound.fileno())  # or the next process could not bind its port
        return bound

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving within about a second."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait({self._task}, timeout=3)
            await end(self._task)
