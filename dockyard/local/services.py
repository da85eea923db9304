"""The services of the platform: their ports, and the settings each is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dockyard.local.ports import HOST, is_free
from dockyard.local.problems import EnvironmentProblem

PORT_OFFSET_MAX = 50_000
# Above, ports belong to outgoing connections on Linux (from 32768).
FREE_OFFSET_MAX = 23_000


@dataclass(frozen=True, slots=True)
class Service:
    """A service as the platform sees it. A gRPC port of 0 means that it has none."""

    name: str
    http_port: int
    grpc_port: int = 0
    uses_redis: bool = True
    # Settings that name another service: field → (service, by gRPC).
    peers: Mapping[str, tuple[str, bool]] | None = None

    @property
    def prefix(self) -> str:
        return f"DOCKYARD_{self.name.upper()}_"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"{HOST}:{self.grpc_port}"

    @property
    def ports(self) -> Mapping[int, str]:
        """What each of its ports is for."""
        named = {self.http_port: f"{self.name} HTTP", self.grpc_port: f"{self.name} gRPC"}
        return {port: use for port, use in named.items() if port}

    @property
    def migrations(self) -> Path:
        """Beside this package, whether it is installed or a checkout."""
        return Path(__file__).parents[2] / "services" / self.name / "migrations"


SERVICES = (
    Service("psp", 8109, uses_redis=False),
    Service("inventory", 8103, 9103, peers={"coordinator_address": ("order", True)}),
    Service("payment", 8102, 9102, peers={"psp_url": ("psp", False), "coordinator_address": ("order", True)}),
    Service("shipping", 8104, 9104, peers={"coordinator_address": ("order", True)}),
    Service(
        "order",
        8101,
        9101,
        peers={
            "inventory_address": ("inventory", True),
            "payment_address": ("payment", True),
            "shipping_address": ("shipping", True),
        },
    ),
)
# Further settings of the order service that it needs to take orders whose calls are made in a row.
NAIVE_SETTINGS = {"DOCKYARD_ORDER_ALLOW_NAIVE": "true"}
NAMES = tuple(service.name for service in SERVICES)


def at_offset(offset: int) -> Mapping[str, Service]:
    """The services with every port moved by `offset`, so that instances run side by side."""
    return {
        one.name: replace(
            one, http_port=one.http_port + offset, grpc_port=one.grpc_port + offset if one.grpc_port else 0
        )
        for one in SERVICES
    }


def free_offset(start: int) -> int:
    """An offset at which every port is free, the first from `start` on. Raises EnvironmentProblem."""
    for offset in range(start, FREE_OFFSET_MAX, len(SERVICES) * 4):
        if all(is_free(port) for service in at_offset(offset).values() for port in service.ports):
            return offset
    raise EnvironmentProblem(f"no port offset from {start} to {FREE_OFFSET_MAX} has all its ports free: stop something")


def settings(
    name: str, services: Mapping[str, Service], database_url: str, redis_url: str, otlp_endpoint: str
) -> dict[str, str]:
    """The variables the platform starts a service with."""
    service = services[name]
    fields = {"database_url": database_url, "http_port": str(service.http_port)}
    if service.grpc_port:
        fields["grpc_port"] = str(service.grpc_port)
    if service.uses_redis:
        fields["redis_url"] = redis_url
    if otlp_endpoint:
        fields["otlp_endpoint"] = otlp_endpoint
    for field, (peer, by_grpc) in (service.peers or {}).items():
        fields[field] = services[peer].grpc_address if by_grpc else services[peer].url
    return {f"{service.prefix}{field.upper()}": value for field, value in fields.items()}


def check_not_set(names: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Raises EnvironmentProblem when the caller's environment sets what the platform decides.

    To override it silently would be worse. Everything else of DOCKYARD_<SERVICE>_* reaches the service.
    """
    clashes = sorted(name for name in names if name in environ and not name.endswith("_OTLP_ENDPOINT"))
    if clashes:
        raise EnvironmentProblem(
            f"{', '.join(clashes)} is decided by `dockyard up` itself: unset it (ports move with --port-offset)"
        )
