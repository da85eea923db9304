"""The card processor as its process builds it, on a real database and a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

import services.psp
from services.psp.config import PspSettings
from services.psp.main import build
from tests.integration.edge.serving import serve_http

MIGRATIONS = Path(services.psp.__path__[0]) / "migrations"


@asynccontextmanager
async def serve_psp(database_url: str, slow_seconds: float = 0.0) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the processor. Leaving stops it; its database stays."""
    settings = PspSettings(database_url=database_url, http_port=1, slow_seconds=slow_seconds)
    async with build(settings) as entrances:
        async with serve_http(entrances.app) as client:
            yield client
        for drain in entrances.drain:
            await drain()
