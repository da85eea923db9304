"""One platform for the whole contract, whose services the tests kill as they like; and the list of where they did."""

from collections.abc import Iterator

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
CONVERGED = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(scope="session")
def yard(start_platform: StartPlatform) -> Iterator[Yard]:
    platform = start_platform(Options())
    shop = Shop(platform)
    yard = Yard(platform, shop, SETTINGS)
    yard.open()
    yard.shop.post("inventory", "/v1/products", {"products": [UNOBTAINABLE]}).raise_for_status()
    yield yard
    yard.close()
    shop.close()


UNOBTAINABLE = {
    "sku": "unobtainable",
    "name": "Unobtainable",
    "price": {"minor_units": 100, "currency": "EUR"},
    "on_hand": 0,
}


@pytest.fixture(scope="session")
def converged(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Where each style's orders were killed and ended all the same."""
    return request.config.stash.setdefault(CONVERGED, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(CONVERGED, {})
    if not found:
        return
    terminalreporter.section("killed here, and ended as if nothing had happened")
    for style, points in sorted(found.items()):
        for point in points:
            terminalreporter.write_line(f"{style:14} {point}")
    counts = ", ".join(f"{len(points)} {style}" for style, points in sorted(found.items()))
    terminalreporter.write_line(f"{sum(map(len, found.values()))} failpoints, all converged: {counts}")
