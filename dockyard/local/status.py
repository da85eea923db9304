"""How an instance is, for people and programs."""

from collections.abc import Mapping
from dataclasses import dataclass

from dockyard.local.platform import Platform
from dockyard.local.processes import usage
from dockyard.local.state import Running, State
from libs.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process. CPU seconds and memory are None where they cannot be told."""

    name: str
    phase: str
    pid: int | None
    ports: tuple[int, ...]
    uptime_seconds: float
    restarts: int
    last_exit: str
    cpu_seconds: float | None
    rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole instance. `servers` tells of each server whether it is ours or was given."""

    home: str
    phase: str
    port_offset: int
    supervisor_pid: int | None
    servers: Mapping[str, str]
    processes: tuple[ProcessStatus, ...]


def take(platform: Platform, clock: Clock) -> Status:
    """How it is now. A supervisor that died without a word is `crashed`."""
    found = platform.state
    alive = platform.is_up()
    phase = found.phase if alive or found.phase == "down" else "crashed"
    ports = _ports(platform, found)
    servers = {name: "ours" if name in found.running else "given" for name in ("postgres", "redis")}
    return Status(
        home=str(platform.home.path),
        phase=phase,
        port_offset=found.kept.port_offset,
        supervisor_pid=found.supervisor.pid if found.supervisor and alive else None,
        servers=servers if found.running else {},
        processes=tuple(_one(name, running, ports[name], clock) for name, running in sorted(found.running.items())),
    )


def _ports(platform: Platform, found: State) -> dict[str, tuple[int, ...]]:
    services = {name: tuple(one.ports) for name, one in platform.services.items()}
    return {**services, "postgres": (found.kept.postgres_port,), "redis": (found.kept.redis_port,)}


def _one(name: str, running: Running, ports: tuple[int, ...], clock: Clock) -> ProcessStatus:
    process = running.process
    used = usage(process) if process else None
    return ProcessStatus(
        name=name,
        phase=running.phase,
        pid=process.pid if process else None,
        ports=ports,
        uptime_seconds=max(0, clock.unix_ms() - running.since_unix_ms) / 1000 if process else 0.0,
        restarts=running.restarts,
        last_exit=running.last_exit,
        cpu_seconds=round(used.cpu_seconds, 2) if used else None,
        rss_bytes=used.rss_bytes if used else None,
    )
