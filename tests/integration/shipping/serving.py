"""The shipping service as its process builds it, on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from proto.shipping.v1 import shipping_pb2_grpc
from services.shipping.config import ShippingSettings
from services.shipping.main import build
from tests.integration.edge.serving import serve_entrances


@dataclass(frozen=True, slots=True)
class Served:
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "shipping_pb2_grpc.ShippingServiceAsyncStub"


@asynccontextmanager
async def serve_shipping(database_url: str, **settings: Any) -> AsyncIterator[Served]:
    """Both entrances of the service, and its loops."""
    async with (
        build(ShippingSettings(database_url=database_url, http_port=1, **settings)) as entrances,
        serve_entrances(entrances) as (client, peer),
    ):
        yield Served(client, shipping_pb2_grpc.ShippingServiceStub(peer))
