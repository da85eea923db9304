"""A service process from its first line to its last: start, one clear sentence when that fails, drain, stop.

Exit codes: 0 stopped as asked, 2 settings, 3 environment (a port, the database, its schema), 1 anything else.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import uvicorn
import uvloop
from starlette.types import ASGIApp

from libs.kernel.errors import DockyardError
from libs.runtime import failpoints
from libs.runtime.database import CannotStart
from libs.runtime.settings import ServiceSettings, SettingsInvalid, load
from libs.telemetry.logs import configure_logging, get_logger
from libs.telemetry.tracing import configure_tracing

EXIT_SETTINGS = 2
EXIT_ENVIRONMENT = 3
# A request allocates a few hundred short-lived objects: at Python's default of 700 every other one would collect.
GC_THRESHOLD = (50_000, 20, 20)
HTTP_BACKLOG = 1024

log = get_logger(__name__)

S = TypeVar("S", bound=ServiceSettings)

Loop = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Entrances:
    """What a built service consists of.

    `loops` run until they are cancelled. `drain` finishes what was begun, after the entrances closed.
    """

    app: ASGIApp
    grpc_server: grpc.aio.Server | None = None
    serving: Callable[[bool], Awaitable[None]] | None = None
    loops: Sequence[Loop] = ()
    drain: Sequence[Callable[[], Awaitable[None]]] = field(default=())


Build = Callable[[S], AbstractAsyncContextManager[Entrances]]


@dataclass(frozen=True, slots=True)
class Process(Generic[S]):
    """A service as its `main` describes it. `build` opens what the service needs and closes it again."""

    name: str
    prefix: str
    settings: type[S]
    migrations: Path
    build: Build[S]


def main(process: Process[S], arguments: Sequence[str]) -> int:
    """Serves, or with the argument `migrate` brings the schema up to date; returns the exit code."""
    try:
        settings = load(process.settings, process.prefix, os.environ)
    except SettingsInvalid as error:
        return _say(f"{process.name}: {error}", EXIT_SETTINGS)
    configure_logging(process.name, settings.log_level)
    if arguments == ["migrate"]:
        return _run(process.name, lambda: _migrate(settings.database_url, process.migrations))
    if arguments:
        return _say(f"usage: python -m services.{process.name}.main [migrate]", EXIT_SETTINGS)
    failpoints.arm(settings.failpoint)
    flush_traces = configure_tracing(process.name, settings.otlp_endpoint, settings.trace_sample_ratio)
    try:
        return _run(process.name, lambda: _serve(process, settings))
    finally:
        flush_traces()


def _run(name: str, work: Callable[[], "Awaitable[None]"]) -> int:
    async def run() -> None:
        await work()

    try:
        uvloop.run(run())
    except CannotStart as error:
        return _say(f"{name} cannot start: {error}", EXIT_ENVIRONMENT)
    except DockyardError as error:
        return _say(
            f"{name} cannot start: {error.message}; check its database_url and that the server runs", EXIT_ENVIRONMENT
        )
    return 0


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code


async def _migrate(url: str, directory: Path) -> None:
    from libs.runtime.migrate import migrate  # noqa: PLC0415  (a process that serves never needs Alembic)

    await migrate(url, directory)


async def _serve(process: Process[S], settings: S) -> None:
    http_socket = _bind(settings.host, settings.http_port)
    async with process.build(settings) as entrances:
        stop = asyncio.Event()
        with _signals(stop):
            await _run_until(stop, process.name, settings, entrances, http_socket)


async def _run_until(
    stop: asyncio.Event, name: str, settings: ServiceSettings, entrances: Entrances, http_socket: socket.socket
) -> None:
    server = _Http(_http_config(entrances.app, settings))
    if entrances.grpc_server is not None:
        _bind_grpc(entrances.grpc_server, settings.host, settings.grpc_port)
        await entrances.grpc_server.start()
    async with asyncio.TaskGroup() as group:
        http = group.create_task(server.serve(sockets=[http_socket]))
        loops = [group.create_task(_loop(loop)) for loop in entrances.loops]
        if entrances.serving is not None:
            await entrances.serving(True)
        _settle_memory()
        log.info("ready", extra={"http_port": settings.http_port, "grpc_port": settings.grpc_port, "pid": os.getpid()})
        await stop.wait()
        log.info("stopping")
        if entrances.serving is not None:
            await entrances.serving(False)
        server.should_exit = True
        if entrances.grpc_server is not None:
            await entrances.grpc_server.stop(settings.drain_seconds)
        await http
        for loop in loops:
            loop.cancel()
        await _drain(entrances, settings.drain_seconds)
    log.info("stopped")


async def _drain(entrances: Entrances, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            for finish in entrances.drain:
                await finish()
    except TimeoutError:
        log.warning("stopped before everything begun was finished; it is durable and resumes at the next start")


async def _loop(loop: Loop) -> None:
    await loop()


def _settle_memory() -> None:
    """What exists now lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


class _Http(uvicorn.Server):
    """Uvicorn, but the process's signals belong to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_config(app: ASGIApp, settings: ServiceSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(int(settings.drain_seconds), 1),
    )


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(HTTP_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStart(
            f"port {port} on {host} is not free ({error.strerror}); stop who uses it or choose another"
        ) from error
    listener.setblocking(False)
    return listener


def _bind_grpc(server: grpc.aio.Server, host: str, port: int) -> None:
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise CannotStart(f"port {port} on {host} is not free; stop who uses it or choose another")


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT stops gracefully, the second at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
