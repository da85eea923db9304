from dataclasses import replace

import pytest

from libs.kernel.errors import Invalid, Refused
from libs.kernel.money import Money
from services.inventory.domain import Line, Product, checked, deduct, new_product, receive, relist, restock

LAMP = new_product("lamp", "Lamp", Money(4900, "EUR"), 5)
ROPE = new_product("rope", "Rope", Money(250, "EUR"), 1)
STOCK = {"lamp": LAMP, "rope": ROPE}


def test_what_is_taken_is_sold_and_still_adds_up() -> None:
    (lamp,) = deduct(STOCK, [Line("lamp", 2)])
    assert (lamp.on_hand, lamp.sold, lamp.received) == (3, 2, 5)


def test_all_lines_or_none() -> None:
    with pytest.raises(Refused) as refusal:
        deduct(STOCK, [Line("lamp", 2), Line("rope", 2)])
    assert refusal.value.code == "out-of-stock"
    assert refusal.value.details == {"sku": "rope", "wanted": "2", "on_hand": "1"}


def test_an_unknown_product_is_refused_by_name() -> None:
    with pytest.raises(Refused) as refusal:
        deduct(STOCK, [Line("unicorn", 1)])
    assert (refusal.value.code, refusal.value.details) == ("unknown-product", {"sku": "unicorn"})


def test_restocking_is_the_mirror_of_deducting() -> None:
    lines = [Line("lamp", 2), Line("rope", 1)]
    taken = {product.sku: product for product in deduct(STOCK, lines)}
    assert restock(taken, lines) == [LAMP, ROPE]


def test_a_delivery_is_on_hand_and_received() -> None:
    assert receive(LAMP, 3) == replace(LAMP, on_hand=8, received=8)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Line("lamp", 0)],
        [Line("lamp", -1)],
        [Line("lamp", 10_001)],
        [Line("lamp", 1), Line("lamp", 1)],
        [Line(f"sku-{number}", 1) for number in range(101)],
        [Line("", 1)],
        [Line("a\0b", 1)],
        [Line("x" * 65, 1)],
    ],
)
def test_lines_that_could_never_be_taken_are_invalid(lines: list[Line]) -> None:
    with pytest.raises(Invalid):
        checked(lines)


def test_stock_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="does not add up"):
        Product("lamp", "Lamp", Money(4900, "EUR"), on_hand=5, sold=1, received=5)
    with pytest.raises(AssertionError, match="does not add up"):
        Product("lamp", "Lamp", Money(4900, "EUR"), on_hand=-1, sold=6, received=5)


def test_a_new_name_or_price_is_a_later_revision_of_the_same_stock() -> None:
    dearer = relist(LAMP, new_product("lamp", "Lamp", Money(5200, "EUR"), 99))
    assert dearer == replace(LAMP, price=Money(5200, "EUR"), revision=2)
    assert relist(dearer, dearer) is dearer


@pytest.mark.parametrize(
    ("sku", "name", "price", "on_hand"),
    [
        ("", "Lamp", 1, 0),
        ("a\0b", "Lamp", 1, 0),
        ("lamp", "a\nb", 1, 0),
        ("lamp", "Lamp", 0, 0),
        ("lamp", "Lamp", 1, -1),
    ],
)
def test_a_product_that_makes_no_sense_is_invalid(sku: str, name: str, price: int, on_hand: int) -> None:
    with pytest.raises(Invalid):
        new_product(sku, name, Money(price, "EUR"), on_hand)
