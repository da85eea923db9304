"""Settings: complete, or the process does not start and one message says everything that is wrong.

One frozen class a service, read once in `main` from variables with the service's prefix; an unknown one is refused,
because a misspelt setting that is silently ignored is worse than a process that does not start.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

S = TypeVar("S", bound="Settings")


class SettingsInvalid(Exception):
    """Every problem with the settings, one a line; never a value, because a value may be a secret."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServiceSettings(Settings):
    """What every service needs. Ports of 0 switch that entrance off; an empty redis_url means no messaging."""

    database_url: str = Field(pattern=r"^postgresql://", repr=False)
    redis_url: str = Field(default="", pattern=r"^(rediss?://.*)?$", repr=False)
    host: str = "127.0.0.1"
    http_port: int = Field(ge=1, le=65535)
    grpc_port: int = Field(default=0, ge=0, le=65535)
    otlp_endpoint: str = ""
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    # Connections to the service's own database.
    database_pool_size: int = Field(default=8, ge=1, le=100)
    instance: str = Field(default="local", max_length=64)
    # How long a stopping process may take to finish what it has begun.
    drain_seconds: float = Field(default=10.0, gt=0, le=300)
    # Tests only: where the process shall die, see libs.runtime.failpoints.
    failpoint: str = ""


def load(cls: type[S], prefix: str, environ: Mapping[str, str]) -> S:
    """The settings from PREFIX_FIELD variables. Raises SettingsInvalid."""
    given = {name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix)}
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        problems = [
            _problem(prefix, str(one["loc"][0]) if one["loc"] else "", one["type"], one["msg"])
            for one in error.errors()
        ]
        raise SettingsInvalid("settings are not usable:\n  " + "\n  ".join(problems)) from None


def _problem(prefix: str, field: str, kind: str, message: str) -> str:
    name = f"{prefix}{field.upper()}"
    match kind:
        case "extra_forbidden":
            return f"{name} is not a setting of this service; remove it or correct its name"
        case "missing":
            return f"{name} is missing; set it"
        case _:
            return f"{name}: {message}"
