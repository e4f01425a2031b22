"""Settings that every process reads from its environment and its command line."""

import argparse
import os
import re
import secrets
import socket
import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from maniple.timings import LEAST_SCALE, MOST_SCALE, Timings, WrongTimings
from maniple.urls import check_broker_url, check_http_url
from maniple_runtime.tls import PARTS, Tls, variable

PREFIX = "MANIPLE_"
WRONG_USAGE = 2
DEFAULT_ENVIRONMENT = "default"
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIMES = ("unreachable_after", "failed_after", "forgotten_after", "leftover_quiet")
_ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared with, never bound to by default


def environment_of(broker_url: str) -> str:
    """Return the environment of a broker's URL: its vhost's name, `default` for `/`."""
    return unquote(urlsplit(broker_url).path[1:]).strip("/") or DEFAULT_ENVIRONMENT


def _is_broker_url(url: str) -> str:
    check_broker_url(url)
    if not _ENVIRONMENT.fullmatch(environment_of(url)):
        raise ValueError("the vhost names the environment: letters, digits, '_', '.' and '-' only")
    return url


def _is_http_url(url: str) -> str:
    check_http_url(url)
    return url


def _is_endpoint(url: str) -> str:
    return url and _is_http_url(url)


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


BrokerUrl = Annotated[str, AfterValidator(_is_broker_url)]
HttpUrl = Annotated[str, AfterValidator(_is_http_url)]
Endpoint = Annotated[str, AfterValidator(_is_endpoint)]
InstanceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
LevelName = Literal["debug", "info", "warning", "error", "critical"]
LogLevel = Annotated[LevelName, BeforeValidator(_lowered)]
LogFormat = Annotated[Literal["json", "console"], BeforeValidator(_lowered)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServiceSettings(BaseSettings):
    """Settings that all processes share; each has a subclass in its own `settings.py`.

    Every field is the flag `--<field>` and the environment variable `MANIPLE_<FIELD>`; a flag wins,
    empty variables count as unset, empty flags are refused. Seconds are floats. `instance` has no
    dots, because it is one word of a routing key. The text under a field is shown by `--help` and
    in the documents.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    service: ClassVar[str] = "service"

    broker_url: BrokerUrl = Field(default="amqp://guest:guest@127.0.0.1:5672/dev", repr=False)
    """RabbitMQ; the vhost's name is the environment's"""
    consul_url: HttpUrl = "http://127.0.0.1:8500"
    """Consul's HTTP API"""
    consul_token: str | None = Field(default=None, repr=False)
    """ACL token for Consul"""
    consul_cacert: Path | None = None
    """PEM of the authorities of Consul's certificate, instead of the well-known ones"""
    consul_cert: Path | None = None
    """PEM of the certificate to show to Consul, if it asks for one"""
    consul_key: Path | None = None
    """PEM of that certificate's key, if it is not in the same file"""
    instance: InstanceName = ""
    """unique name: letters, digits, `_`, `-`"""
    region: str = Field(default="", max_length=256)
    """region of tasks that have no label `region`; policies select by it"""
    http_host: str = "127.0.0.1"
    """address to serve `/health`, `/ready` and `/metrics` on"""
    http_port: int = Field(default=0, ge=0, le=65535)
    """port for them; 0 is any free one"""
    advertise_host: str = ""
    """host under which others reach that port, if it is another"""
    data_dir: Path = Path(".maniple")
    """where the last good policies are kept"""
    log_level: LogLevel = "info"
    """`debug`, `info`, `warning`, `error` or `critical`"""
    log_format: LogFormat = "json"
    """`json` or `console`"""
    otlp_endpoint: Endpoint = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    )
    """where spans go by OTLP/HTTP, as `http://jaeger:4318`; without it there is no tracing"""
    trace_rate: float = Field(default=100.0, ge=0)
    """traces a second kept besides the sampled ones: a submitter's, and what fails or moves"""
    drain_timeout: float = Field(default=20.0, ge=0)
    """seconds to finish after SIGTERM"""
    time_scale: float = Field(default=1.0, ge=LEAST_SCALE, le=MOST_SCALE)
    """how many times as long all times of the cluster's protocol are; the same for all processes"""
    unreachable_after: Seconds | None = None
    """seconds of silence until an agent is `unreachable`; 4.5 times the scale without it"""
    failed_after: Seconds | None = None
    """seconds of silence until it is `failed`; 9 times the scale without it"""
    forgotten_after: Seconds | None = None
    """seconds for which a failed or left agent is shown; 600 times the scale without it"""
    leftover_quiet: Seconds | None = None
    """seconds of quiet until the queue of a gone agent is removed; 30 times the scale without it"""

    @model_validator(mode="before")
    @classmethod
    def _name_the_instance(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("instance") is None:
            host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:40]
            return data | {"instance": f"{cls.service}-{host or 'host'}-{secrets.token_hex(3)}"}
        return data

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        try:
            _ = self.timings
        except WrongTimings as error:
            given = [name for name in _TIMES if getattr(self, name) is not None]
            names = ", ".join(f"{PREFIX}{name.upper()}" for name in given)
            raise ValueError(f"{names}: {error}") from error
        return self

    @model_validator(mode="after")
    def _in_tls(self) -> Self:
        check_tls("consul", self.consul_url, self.consul_tls)
        return self

    @property
    def consul_tls(self) -> Tls:
        """The TLS files for Consul."""
        return Tls(self.consul_cacert, self.consul_cert, self.consul_key)

    @cached_property
    def timings(self) -> Timings:
        """The protocol timings that this process keeps, and relies on others keeping."""
        return (
            Timings()
            .scaled(self.time_scale)
            .bounded(
                unreachable=self.unreachable_after,
                failed=self.failed_after,
                forgotten=self.forgotten_after,
                leftover=self.leftover_quiet,
            )
        )

    @property
    def handed_on(self) -> dict[str, str]:
        """Variables for the user code that this process runs, and for its children."""
        return {}

    @property
    def environment(self) -> str:
        """Name of the environment: the vhost's, everywhere."""
        return environment_of(self.broker_url)

    @property
    def consul_prefix(self) -> str:
        """Consul KV prefix of this environment, without a slash at its end."""
        return f"maniple/{self.environment}"

    @property
    def address(self) -> str:
        """Host under which others reach this process's HTTP port."""
        if self.advertise_host:
            return self.advertise_host
        return socket.getfqdn() if self.http_host in _ANY_ADDRESS else self.http_host


S = TypeVar("S", bound=ServiceSettings)


def check_tls(server: str, url: str, tls: Tls) -> None:
    """Raise `ValueError` for TLS files that cannot be used, or would not be."""
    if tls and not url.startswith("https:"):
        given = [part for part in PARTS if getattr(tls, part) is not None]
        names = ", ".join(variable(server, part) for part in given)
        raise ValueError(f"{names}: {variable(server, 'url')} is no https URL")
    if tls:
        tls.check(server)


def flag_of(field: str) -> str:
    """Return the flag of a field."""
    return "--" + field.replace("_", "-")


def complaint(error: ValidationError, arguments: Sequence[str] = ()) -> str:
    """Return one line that names the flags or variables that are wrong, and why.

    Values are not repeated (secrets).
    """
    given = {argument.partition("=")[0] for argument in arguments}
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        field = "_".join(part for part in item["loc"] if isinstance(part, str))
        name = flag_of(field) if flag_of(field) in given else f"{PREFIX}{field.upper()}"
        text = item["msg"].removeprefix("Value error, ")
        # What is wrong between several names them itself.
        parts.append(f"{name}: {text}" if field else text)
    return "; ".join(parts)


def _empty(arguments: Sequence[str]) -> list[str]:
    """Return the flags whose value is empty: the library would ignore them."""
    return [
        flag.removesuffix("=")
        for flag, value in pairwise((*arguments, None))
        if flag is not None and flag.startswith("--") and (flag.endswith("=") or value == "")
    ]


def load_settings(kind: type[S], arguments: Sequence[str] = ()) -> S:
    """Read the settings from the command line's arguments and the environment.

    What is wrong is printed on standard error, by the name of its flag or variable, and ends the
    process with 2; `--help` is printed and ends it with 0.
    """
    program = f"maniple-{kind.service}"
    parser = argparse.ArgumentParser(
        program,
        description=f"Every flag is also an environment variable: --drain-timeout is "
        f"{PREFIX}DRAIN_TIMEOUT. A flag wins.",
        allow_abbrev=False,
    )
    if empty := _empty(arguments):
        parser.exit(WRONG_USAGE, f"{program}: {', '.join(empty)}: must not be empty\n")
    try:
        source = CliSettingsSource[Any](
            kind,
            cli_parse_args=list(arguments),
            cli_kebab_case=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            root_parser=parser,
        )
        return kind(_cli_settings_source=source)
    except ValidationError as error:
        reason = complaint(error, arguments)
    except SettingsError as error:
        reason = f"{PREFIX}*: {error}"
    sys.stderr.write(f"{program}: {reason}\n")
    raise SystemExit(WRONG_USAGE)
