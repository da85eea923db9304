from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.conftest import MakeDatabase
from tests.integration.payment.serving import SLOW_SECONDS, Served, serve_payment
from tests.integration.payment.till import MIGRATIONS, ScriptedProcessor, Till, open_till
from tests.integration.psp.serving import MIGRATIONS as PSP_MIGRATIONS
from tests.integration.psp.serving import serve_psp


@pytest.fixture
def processor() -> ScriptedProcessor:
    return ScriptedProcessor()


@pytest_asyncio.fixture
async def till(make_database: MakeDatabase, processor: ScriptedProcessor) -> AsyncIterator[Till]:
    async with open_till(await make_database("payment", MIGRATIONS), processor) as till:
        yield till


@pytest_asyncio.fixture
async def psp(make_database: MakeDatabase) -> AsyncIterator[httpx.AsyncClient]:
    """The real processor."""
    async with serve_psp(await make_database("psp", PSP_MIGRATIONS), SLOW_SECONDS) as client:
        yield client


@pytest_asyncio.fixture
async def payment(make_database: MakeDatabase, psp: httpx.AsyncClient) -> AsyncIterator[Served]:
    async with serve_payment(await make_database("payment", MIGRATIONS), str(psp.base_url)) as served:
        yield served
