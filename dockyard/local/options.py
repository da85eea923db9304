"""How an instance is to be started."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dockyard.local.services import NAIVE_SETTINGS, NAMES

POSTGRES_URL = "DOCKYARD_POSTGRES_URL"
REDIS_URL = "DOCKYARD_REDIS_URL"
OTLP_ENDPOINT = "DOCKYARD_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Options:
    """What differs from start to start.

    `port_offset` None means as last time. An empty URL means a server of our own. `environ` and `once` are further
    variables by service; those in `once` reach only its first process, not the one that follows a crash.
    """

    port_offset: int | None = None
    services: tuple[str, ...] = NAMES
    postgres_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    otlp_endpoint: str = ""
    environ: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    once: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def from_environ(environ: Mapping[str, str], port_offset: int | None = None) -> Options:
    """As the user's environment asks."""
    return Options(
        port_offset=port_offset,
        postgres_url=environ.get(POSTGRES_URL, ""),
        redis_url=environ.get(REDIS_URL, ""),
        otlp_endpoint=environ.get(OTLP_ENDPOINT, ""),
    )


def allowing_naive(options: Options) -> Options:
    """The same, with an order service that also takes orders whose calls are made in a row."""
    order = {**options.environ.get("order", {}), **NAIVE_SETTINGS}
    return replace(options, environ={**options.environ, "order": order})
