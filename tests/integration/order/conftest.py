from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import MakeDatabase
from tests.integration.order.bureau import MIGRATIONS, Bureau, open_bureau


@pytest_asyncio.fixture
async def bureau(make_database: MakeDatabase) -> AsyncIterator[Bureau]:
    async with open_bureau(await make_database("order", MIGRATIONS)) as bureau:
        yield bureau


@pytest_asyncio.fixture
async def replica(bureau: Bureau) -> AsyncIterator[Bureau]:
    """A second process on the same database."""
    async with open_bureau(bureau.url) as replica:
        yield replica
