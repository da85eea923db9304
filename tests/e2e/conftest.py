"""One whole platform for the end-to-end tests, with a collector of traces and something to sell."""

from collections.abc import Iterator

import pytest

from dockyard.local.options import Options
from dockyard.local.platform import Platform
from tests.conftest import StartPlatform
from tests.e2e.collector import Collector, collecting
from tests.e2e.shop import Shop


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def platform(start_platform: StartPlatform, collector: Collector) -> Platform:
    return start_platform(Options(otlp_endpoint=collector.endpoint))


@pytest.fixture(scope="session")
def shop(platform: Platform) -> Iterator[Shop]:
    shop = Shop(platform)
    shop.open()
    yield shop
    shop.close()
