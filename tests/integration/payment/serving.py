"""The payment service as its process builds it, on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from proto.payment.v1 import payment_pb2_grpc
from services.payment.config import PaymentSettings
from services.payment.main import build
from tests.integration.edge.serving import serve_entrances

# How long the slow card lets everybody wait.
SLOW_SECONDS = 0.6


@dataclass(frozen=True, slots=True)
class Served:
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "payment_pb2_grpc.PaymentServiceAsyncStub"


@asynccontextmanager
async def serve_payment(database_url: str, psp_url: str, **settings: Any) -> AsyncIterator[Served]:
    """Both entrances of the service, and its loops."""
    wanted = PaymentSettings(database_url=database_url, http_port=1, psp_url=psp_url, **settings)
    async with build(wanted) as entrances, serve_entrances(entrances) as (client, peer):
        yield Served(client, payment_pb2_grpc.PaymentServiceStub(peer))
