from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import MakeDatabase
from tests.integration.inventory.storeroom import MIGRATIONS, Store, open_store


@pytest_asyncio.fixture
async def store(make_database: MakeDatabase) -> AsyncIterator[Store]:
    async with open_store(await make_database("inventory", MIGRATIONS)) as store:
        yield store
