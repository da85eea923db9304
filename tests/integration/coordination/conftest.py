"""One platform for the whole contract, whose services the tests kill as they like."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dockyard.local.options import Options
from tests.conftest import StartPlatform
from tests.e2e.shop import Shop
from tests.integration.coordination.yard import Yard

# Recovery and patience are waited for many times: short ones, on which nothing that is promised depends.
SETTINGS = {
    "order": {"allow_naive": "true", "choreography_deadline_seconds": "20"},
    "payment": {"resume_after_seconds": "0.5", "resume_every_seconds": "0.5"},
}


UNOBTAINABLE = {
    "sku": "unobtainable",
    "name": "Unobtainable",
    "price": {"minor_units": 100, "currency": "EUR"},
    "on_hand": 0,
}


@contextmanager
def opened(start_platform: StartPlatform) -> Iterator[Yard]:
    """A platform that sells everything but the unobtainable."""
    platform = start_platform(Options())
    shop = Shop(platform)
    yard = Yard(platform, shop, SETTINGS)
    yard.open()
    yard.shop.post("inventory", "/v1/products", {"products": [UNOBTAINABLE]}).raise_for_status()
    yield yard
    yard.close()
    shop.close()


@pytest.fixture(scope="session")
def yard(start_platform: StartPlatform) -> Iterator[Yard]:
    with opened(start_platform) as yard:
        yield yard
