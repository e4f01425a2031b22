"""What every process is told by its environment."""

import re
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

PREFIX = "MANIPLE_"
WRONG_USAGE = 2
DEFAULT_ENVIRONMENT = "default"
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared with, never bound to by default


def environment_of(broker_url: str) -> str:
    """Environment that a broker's URL stands for: its vhost's name, `default` for `/`."""
    return unquote(urlsplit(broker_url).path[1:]).strip("/") or DEFAULT_ENVIRONMENT


def without_password(url: str) -> str:
    """Return the URL with `***` for its password, fit for a log line."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", url)


def _is_broker_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
        raise ValueError("must look like amqp://user:password@host:5672/vhost")
    if not _ENVIRONMENT.fullmatch(environment_of(url)):
        raise ValueError("the vhost names the environment: letters, digits, '_', '.' and '-' only")
    return url


def _is_http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must look like http://host:8500")
    return url


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


BrokerUrl = Annotated[str, AfterValidator(_is_broker_url)]
HttpUrl = Annotated[str, AfterValidator(_is_http_url)]
InstanceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lowered)
]
LogFormat = Annotated[Literal["json", "console"], BeforeValidator(_lowered)]


class ServiceSettings(BaseSettings):
    """Settings that all processes share; each has a subclass in its own `settings.py`.

    Every field is the environment variable `MANIPLE_<FIELD>`; empty variables count as unset.
    Seconds are floats. `instance` has no dots, because it is one word of a routing key.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore"
    )

    service: ClassVar[str] = "service"

    broker_url: BrokerUrl = Field(default="amqp://guest:guest@127.0.0.1:5672/dev", repr=False)
    consul_url: HttpUrl = "http://127.0.0.1:8500"
    consul_token: str | None = Field(default=None, repr=False)
    instance: InstanceName = ""
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)
    advertise_host: str = ""
    data_dir: Path = Path(".maniple")
    log_level: LogLevel = "info"
    log_format: LogFormat = "json"
    drain_timeout: float = Field(default=20.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _name_the_instance(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("instance"):
            host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:40]
            return data | {"instance": f"{cls.service}-{host or 'host'}-{secrets.token_hex(3)}"}
        return data

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


def complaint(error: ValidationError) -> str:
    """Say in one line which variables are wrong and why; values are not repeated (secrets)."""
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        name = "".join(f"_{part}" for part in item["loc"] if isinstance(part, str)).upper()
        parts.append(f"{PREFIX}{name[1:]}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)


def load_settings(kind: type[S]) -> S:
    """Read the settings from the environment, or say which variable is wrong and exit with 2."""
    try:
        return kind()
    except ValidationError as error:
        reason = complaint(error)
    except SettingsError as error:
        reason = f"{PREFIX}*: {error}"
    sys.stderr.write(f"maniple-{kind.service}: {reason}\n")
    raise SystemExit(WRONG_USAGE)
