"""Entrances on real sockets."""

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import httpx
import uvicorn
from starlette.types import ASGIApp

from libs.runtime.grpc_edge import channel, create_server
from libs.runtime.serve import Entrances, Loop


class _Server(uvicorn.Server):
    """Uvicorn, but the signals are the tests'."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_http(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, served on a free port as the services serve theirs."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None))
    async with asyncio.TaskGroup() as group:
        # Who connects before it serves waits in the listener's queue.
        group.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                yield client
        finally:
            server.should_exit = True


@asynccontextmanager
async def serve_grpc(
    name: str, add_servicers: Callable[[grpc.aio.Server], None]
) -> AsyncIterator[tuple[str, grpc.aio.Channel]]:
    """The address of a server on a free port, and a channel to it."""
    server, serving = create_server([name], add_servicers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await serving(True)
    try:
        async with channel(f"127.0.0.1:{port}") as peer:
            yield f"127.0.0.1:{port}", peer
    finally:
        await server.stop(0)


@asynccontextmanager
async def serve_entrances(entrances: Entrances) -> AsyncIterator[tuple[httpx.AsyncClient, grpc.aio.Channel]]:
    """A client and a channel of a service that runs as its process runs it; what it has begun ends before it does."""
    server = entrances.grpc_server
    assert server is not None
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(_run(loop)) for loop in entrances.loops]
            try:
                async with serve_http(entrances.app) as client, channel(f"127.0.0.1:{port}") as peer:
                    yield client, peer
            finally:
                for loop in loops:
                    loop.cancel()
    finally:
        await server.stop(0)
        for drain in entrances.drain:
            await drain()
        _forget_connections()


def _forget_connections() -> None:
    """A loop that is cancelled while it opens a connection leaves that to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def _run(loop: Loop) -> None:
    await loop()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody else takes meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
