"""What each part is there for: without it, cases of the contract that are kept otherwise are broken."""

from collections.abc import Iterator

import pytest

from dockyard.local.options import Options
from tests.conftest import StartPlatform
from tests.e2e.shop import Shop
from tests.integration.coordination import cases
from tests.integration.coordination.cases import Case
from tests.integration.coordination.conftest import SETTINGS, UNOBTAINABLE
from tests.integration.coordination.yard import Broken, Yard

# The part, who goes without it, and what is broken then in which style.
WITHOUT: list[tuple[str, tuple[str, ...], str, Case]] = [
    ("barrier", ("inventory", "payment", "shipping"), "orchestrated", cases.undo_before_do),
    ("barrier", ("inventory", "payment", "shipping"), "tcc", cases.undo_before_do),
    ("barrier", ("inventory", "payment", "shipping"), "twophase", cases.undo_before_do),
    ("inbox", ("inventory", "payment", "shipping", "order"), "choreographed", cases.messages_arrive_twice),
    ("decision-log", ("order",), "tcc", cases.a_hold_outlives_its_lease),
    ("decision-log", ("order",), "twophase", cases.a_hold_outlives_its_lease),
]


@pytest.fixture(scope="module")
def crippled(start_platform: StartPlatform) -> Iterator[Yard]:
    """A platform of its own: what is broken here shall not be found elsewhere."""
    platform = start_platform(Options())
    shop = Shop(platform)
    yard = Yard(platform, shop, SETTINGS)
    yard.open()
    yard.shop.post("inventory", "/v1/products", {"products": [UNOBTAINABLE]}).raise_for_status()
    yield yard
    yard.close()
    shop.close()


@pytest.mark.parametrize(
    ("part", "services", "style", "case"),
    WITHOUT,
    ids=[f"{part}-{style}-{case.__name__}" for part, _, style, case in WITHOUT],
)
def test_without_it_the_contract_is_broken(
    part: str, services: tuple[str, ...], style: str, case: Case, crippled: Yard
) -> None:
    crippled.leave_out(part, services)
    try:
        with pytest.raises(Broken) as broken:
            case(crippled, style)
        print(f"without the {part}, {style} {case.__name__}: {broken.value}")
    finally:
        crippled.leave_out("", services)
