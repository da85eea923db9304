"""The payment service as its process builds it, on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from libs.runtime.grpc_edge import channel
from proto.payment.v1 import payment_pb2_grpc
from services.payment.config import PaymentSettings
from services.payment.main import build
from tests.integration.edge.serving import serve_http


@dataclass(frozen=True, slots=True)
class Served:
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "payment_pb2_grpc.PaymentServiceAsyncStub"


@asynccontextmanager
async def serve_payment(database_url: str, psp_url: str) -> AsyncIterator[Served]:
    """Both entrances of the service; what it has begun ends before it does."""
    settings = PaymentSettings(database_url=database_url, http_port=1, psp_url=psp_url)
    async with build(settings) as entrances:
        server = entrances.grpc_server
        assert server is not None
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with serve_http(entrances.app) as client, channel(f"127.0.0.1:{port}") as peer:
            yield Served(client, payment_pb2_grpc.PaymentServiceStub(peer))
        await server.stop(0)
        for drain in entrances.drain:
            await drain()
