from collections.abc import AsyncIterator

import pytest_asyncio

from tests.conftest import MakeDatabase
from tests.integration.shipping.office import MIGRATIONS, Office, open_office


@pytest_asyncio.fixture
async def office(make_database: MakeDatabase) -> AsyncIterator[Office]:
    async with open_office(await make_database("shipping", MIGRATIONS)) as office:
        yield office
