"""The inventory service as its process builds it, on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from proto.inventory.v1 import inventory_pb2_grpc
from services.inventory.config import InventorySettings
from services.inventory.main import build
from tests.integration.edge.serving import serve_entrances


@dataclass(frozen=True, slots=True)
class Served:
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "inventory_pb2_grpc.InventoryServiceAsyncStub"


@asynccontextmanager
async def serve_inventory(database_url: str, **settings: Any) -> AsyncIterator[Served]:
    """Both entrances of the service, and its loops."""
    async with (
        build(InventorySettings(database_url=database_url, http_port=1, **settings)) as entrances,
        serve_entrances(entrances) as (client, peer),
    ):
        yield Served(client, inventory_pb2_grpc.InventoryServiceStub(peer))
