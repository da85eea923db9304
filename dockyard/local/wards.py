"""The processes of an instance as wards of its keepers: two servers and the services."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

from dockyard.local import postgres, redis
from dockyard.local.account import check_reachable, server_account
from dockyard.local.children import Program, start
from dockyard.local.home import Home
from dockyard.local.keeper import Process, Ward
from dockyard.local.options import POSTGRES_URL, REDIS_URL
from dockyard.local.ports import HOST, free_port, is_free
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.services import Service
from dockyard.local.state import Kept

# Beside the services' ports, and as those outside the range that outgoing connections use.
POSTGRES_PORT = 8110
REDIS_PORT = 8111
READY_ANSWER_SECONDS = 2.0
# A service drains for at most 10 s by its own settings.
SERVICE_STOP_SECONDS = 13.0


def choose(kept: Kept) -> Kept:
    """The same with passwords and ports for our own servers: those of last time unless somebody took a port since."""
    return replace(
        kept,
        postgres_password=kept.postgres_password or secrets.token_urlsafe(24),
        postgres_port=_still_free(kept.postgres_port or POSTGRES_PORT + kept.port_offset),
        redis_password=kept.redis_password or secrets.token_urlsafe(24),
        redis_port=_still_free(kept.redis_port or REDIS_PORT + kept.port_offset),
    )


def _still_free(port: int) -> int:
    return port if is_free(port) else free_port()


def postgres_plan(home: Home, kept: Kept) -> postgres.PostgresPlan:
    return postgres.PostgresPlan(
        data=home.postgres,
        log=home.log("postgres"),
        port=kept.postgres_port,
        password=kept.postgres_password,
        account=server_account(),
    )


def redis_plan(home: Home, kept: Kept) -> redis.RedisPlan:
    return redis.RedisPlan(
        directory=home.path, log=home.log("redis"), port=kept.redis_port, password=kept.redis_password
    )


def postgres_ward(home: Home, plan: postgres.PostgresPlan, report: Callable[[str], None]) -> Ward:
    """PostgreSQL; its data directory is made if there is none. Raises EnvironmentProblem."""
    check_reachable(plan.data, plan.account)
    made_by = postgres.data_major(plan.data)
    binaries = postgres.reachable(
        postgres.find_binaries(os.environ.get("PATH", ""), major=made_by), plan.account, home.path / "installed"
    )
    if made_by is None:
        report(f"making a PostgreSQL {binaries.major} data directory")
        postgres.initialise(binaries, plan)

    async def ready(process: Process) -> bool:
        return postgres.accepts_connections(plan.data, process.pid)

    return Ward(
        name="postgres",
        log=plan.log,
        spawn=lambda: postgres.spawn_postgres(binaries, plan),
        ready=ready,
        # Fast, then immediate shutdown: the latter replays the log at the next start.
        stop=((signal.SIGINT, postgres.STOP_SECONDS), (signal.SIGQUIT, 5.0)),
    )


def redis_ward(plan: redis.RedisPlan) -> Ward:
    """Redis. Raises EnvironmentProblem."""
    program = redis.find_redis(os.environ.get("PATH", ""))

    async def ready(_: Process) -> bool:
        return redis.answers(plan)

    return Ward(
        name="redis",
        log=plan.log,
        spawn=lambda: redis.spawn_redis(program, plan),
        ready=ready,
        stop=((signal.SIGTERM, redis.STOP_SECONDS),),
    )


def service_ward(service: Service, home: Home, environ: Callable[[], Mapping[str, str]]) -> Ward:
    """A service; `environ` is asked for its settings at every start."""

    def spawn() -> Process:
        return start(
            Program(
                # -P: nothing in the working directory is imported by accident.
                argv=[sys.executable, "-P", "-m", f"services.{service.name}.main"],
                log=home.log(service.name),
                on_orphaned=signal.SIGKILL,
                environ=inherited(os.environ) | dict(environ()),
                directory=home.path,
            )
        )

    async def ready(_: Process) -> bool:
        return await _is_ready(service.http_port)

    return Ward(
        name=service.name,
        log=home.log(service.name),
        spawn=spawn,
        ready=ready,
        stop=((signal.SIGTERM, SERVICE_STOP_SECONDS),),
        # Five of them import for seconds on all cores: to ask them more often would cost more than it tells.
        ask_seconds=0.05,
    )


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a service may see of our environment: not the administrators' URLs, which are not its business."""
    return {name: value for name, value in environ.items() if name not in (POSTGRES_URL, REDIS_URL)}


async def _is_ready(port: int) -> bool:
    """Whether /readyz answers 200. Asked often, so without an HTTP library."""
    try:
        async with asyncio.timeout(READY_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                status_line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return status_line.split(b" ")[1:2] == [b"200"]


def check_ports(services: Mapping[str, Service]) -> None:
    """Raises EnvironmentProblem when a port that a service needs is taken."""
    taken = [f"{port} ({use})" for one in services.values() for port, use in one.ports.items() if not is_free(port)]
    if taken:
        several = len(taken) > 1
        raise EnvironmentProblem(
            f"port{'s' if several else ''} {', '.join(taken)} on {HOST} {'are' if several else 'is'} in use: "
            f"stop who uses {'them' if several else 'it'}, or move all ports with --port-offset N"
        )


def check_secrets(home: Home, kept: Kept) -> None:
    """Raises EnvironmentProblem when there is data whose passwords are lost."""
    if not kept.postgres_password and postgres.data_major(home.postgres) is not None:
        raise EnvironmentProblem(
            f"{home.postgres} holds data but {home.state}, which has its passwords, is gone: "
            f"restore it or choose another --home"
        )
