"""The payment service as its process builds it, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from libs.runtime.grpc_edge import channel
from proto.payment.v1 import payment_pb2_grpc
from services.payment.config import PaymentSettings
from services.payment.main import build
from tests.integration.edge.serving import serve_http

# How long the slow card lets everybody wait.
SLOW_SECONDS = 0.6


@dataclass(frozen=True, slots=True)
class Served:
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "payment_pb2_grpc.PaymentServiceAsyncStub"


@asynccontextmanager
async def serve_payment(database_url: str, psp_url: str, **settings: Any) -> AsyncIterator[Served]:
    """Both entrances of the service, and its loops; what it has begun ends before it does."""
    wanted = PaymentSettings(database_url=database_url, http_port=1, psp_url=psp_url, **settings)
    async with build(wanted) as entrances:
        server = entrances.grpc_server
        assert server is not None
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with asyncio.TaskGroup() as group:
            loops = [group.create_task(_run(loop)) for loop in entrances.loops]
            async with serve_http(entrances.app) as client, channel(f"127.0.0.1:{port}") as peer:
                yield Served(client, payment_pb2_grpc.PaymentServiceStub(peer))
            for loop in loops:
                loop.cancel()
        await server.stop(0)
        for drain in entrances.drain:
            await drain()


async def _run(loop: Any) -> None:
    await loop()
